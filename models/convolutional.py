"""A fully convolutional defender: a small U-Net over cells of pixels, for pictures of any size.

It sees a photo at the photo's own scale: a face is protected at the size that it has in the photo. There are no windows
and therefore no seams.

The network is odd in the photo's texture: no layer has a bias, and every function between them is odd. A texture and
its negative get opposite perturbations: those of different photos have no common part that averaging would show.

B batch, H and W image sides, R side of a cell, D width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rid.models.budget import BudgetRange

LEVELS_OF_RANGE = 127.5  # 8-bit levels of one unit of [-1, 1]
LUMA = (0.299, 0.587, 0.114)
COARSEST = 8  # cells of one vector at the coarsest resolution
KEPT = 0.5  # share of the finer vectors beside the coarser ones: what neighbours agree on is heard


@dataclass(frozen=True)
class ConvolutionalSize:
    """One architecture.

    Attributes:
        working_resolution: side in pixels of the squares it is trained on.
        largest_side: photos whose short side is longer are shrunk to it first; smaller ones are seen as they are.
        cell: R, the side of the cells that become one vector each.
        width: D, channels at the cells' resolution; twice as many at half of it, four times at a quarter and an eighth.
        quiet_levels: texture below this, in 8-bit levels, counts in proportion and is not amplified to full size.
        mask_floor: strength where there is no texture, of the full strength.
        mask_levels: standard deviation of the luminance around a pixel, in 8-bit levels, at which the strength is full.
    """

    working_resolution: int
    largest_side: int
    cell: int
    width: int
    quiet_levels: float = 2.0
    mask_floor: float = 0.4
    mask_levels: float = 5.0

    def __post_init__(self) -> None:
        if self.working_resolution % self.multiple or self.largest_side < self.multiple or self.width < 1:
            raise ValueError(
                f"{self} is not a defender: {COARSEST} cells must divide working_resolution and fit into largest_side, "
                "and width must be at least 1"
            )
        if not 0 < self.mask_floor <= 1 or min(self.mask_levels, self.quiet_levels) <= 0:
            raise ValueError(f"{self} is not a defender: mask_floor lies in (0, 1], and levels are above 0")

    @property
    def multiple(self) -> int:
        """The number of pixels that divides the sides of what the network sees."""
        return COARSEST * self.cell

    def to_json(self) -> dict[str, int | float | str]:
        """Returns the architecture as it stands in a defender's config.json."""
        return {"class": "ConvolutionalDefender", **asdict(self)}

    @classmethod
    def from_json(cls, architecture: dict[str, int | float | str]) -> ConvolutionalSize:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if a field is missing, unknown, or of another class.
        """
        given = dict(architecture)
        if given.pop("class", None) != "ConvolutionalDefender" or set(given) != {field.name for field in fields(cls)}:
            raise ValueError(f"architecture {architecture} is not a ConvolutionalDefender of this version")
        return cls(
            working_resolution=int(given["working_resolution"]),
            largest_side=int(given["largest_side"]),
            cell=int(given["cell"]),
            width=int(given["width"]),
            quiet_levels=float(given["quiet_levels"]),
            mask_floor=float(given["mask_floor"]),
            mask_levels=float(given["mask_levels"]),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.normal_(self.second.weight, std=0.1 * width**-0.5)

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (B, D, h, w) to (B, D, h, w)."""
        return torch.as_tensor(cells + self.second(torch.tanh(self.first(torch.tanh(cells)))))


class Coarser(nn.Module):
    """Four vectors become one of a fixed length: its direction counts, however faint the texture is."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(width, wider, 2, stride=2, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (B, D, h, w) to (B, D', h/2, w/2)."""
        joined = self.join(cells)
        squares = joined.float().square().mean(dim=1, keepdim=True)  # (B, 1, h/2, w/2)
        return torch.as_tensor(1.5 * joined * torch.rsqrt(squares + 1e-3).to(joined.dtype))


class Finer(nn.Module):
    """Each vector becomes four of half the distance."""

    def __init__(self, width: int, narrower: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, 4 * narrower, 1, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (B, D, h, w) to (B, D', 2h, 2w)."""
        return F.pixel_shuffle(self.spread(torch.tanh(cells)), 2)


class ConvolutionalDefender(nn.Module):
    """Maps an image to a perturbation bounded by a budget.

    A fresh one outputs little, but not zero, where the losses over latent spaces are flat. The budget multiplies the
    last tanh and the strength, and enters nowhere else: one network serves every budget.
    """

    def __init__(self, size: ConvolutionalSize, budget: BudgetRange | None = None) -> None:
        """Makes a fresh network.

        Args:
            size: its architecture.
            budget: the budgets it serves; None while they are not settled, when every budget is accepted.
        """
        super().__init__()
        self.size = size
        self.budget = budget
        D, R = size.width, size.cell
        self.cells = nn.Conv2d(3, D, R, stride=R, bias=False)
        self.down = nn.ModuleList([Coarser(D, 2 * D), Coarser(2 * D, 4 * D), Coarser(4 * D, 4 * D)])
        self.up = nn.ModuleList([Finer(4 * D, 4 * D), Finer(4 * D, 2 * D), Finer(2 * D, D)])
        self.before = nn.ModuleList([ResidualBlock(D), ResidualBlock(2 * D), ResidualBlock(4 * D)])
        self.coarse = ResidualBlock(4 * D)
        self.after = nn.ModuleList([ResidualBlock(4 * D), ResidualBlock(2 * D), ResidualBlock(D)])
        self.pixels = nn.Conv2d(D, 3 * R**2, 3, padding=1, bias=False)
        nn.init.normal_(self.cells.weight, std=1.5 / (3**0.5 * R))
        nn.init.normal_(self.pixels.weight, std=0.03)

    def forward(self, image: Tensor, budget_levels: Tensor) -> Tensor:
        """Returns the perturbation.

        Args:
            image: (B, 3, H, W) tensor in [-1, 1]; `size.multiple` divides H and W.
            budget_levels: (B,) tensor of budgets in 8-bit levels.

        Returns:
            (B, 3, H, W) tensor in 8-bit levels, within plus and minus the budget of each image.

        Raises:
            ValueError: if the defender was not trained for one of the budgets.
        """
        if self.budget is not None and not torch.compiler.is_compiling():
            for levels in budget_levels.tolist():
                self.budget.check(levels)
        cells = self.cells(texture(self.size, image))  # (B, D, H/R, W/R)
        finer: list[Tensor] = []
        for before, down in zip(self.before, self.down, strict=True):
            finer.append(before(cells))
            cells = down(finer[-1])
        cells = self.coarse(cells)  # (B, 4D, H/8R, W/8R)
        for up, after in zip(self.up, self.after, strict=True):
            cells = after(KEPT * finer.pop() + up(cells))
        drawn = F.pixel_shuffle(self.pixels(torch.tanh(cells)), self.size.cell)  # (B, 3, H, W)
        bounded = strength(self.size, image) * torch.tanh(drawn.float())
        return budget_levels.view(-1, 1, 1, 1) * bounded  # (B, 3, H, W)


def texture(size: ConvolutionalSize, image: Tensor) -> Tensor:
    """Returns (B, 3, H, W) images without their local mean, in units of the local standard deviation.

    Args:
        size: the architecture.
        image: (B, 3, H, W) tensor in [-1, 1].
    """
    image = image.float()
    mean = F.avg_pool2d(image, size.cell)  # (B, 3, H/R, W/R)
    variance = (F.avg_pool2d(image.square(), size.cell) - mean.square()).mean(dim=1, keepdim=True).clamp(min=0)
    deviation = _with_neighbours(variance.sqrt()) + size.quiet_levels / LEVELS_OF_RANGE  # (B, 1, H/R, W/R)
    return (image - _to_pixels(size, _with_neighbours(mean))) / _to_pixels(size, deviation)


def strength(size: ConvolutionalSize, image: Tensor) -> Tensor:
    """Returns the (B, 1, H, W) mask of what the eye forgives: `mask_floor` where nothing is, 1 in texture.

    The eye sees a change in texture less than in a sky or on a cheek (contrast masking; Legge and Foley 1980).

    Args:
        size: the architecture.
        image: (B, 3, H, W) tensor in [-1, 1].
    """
    weights = torch.tensor(LUMA, dtype=torch.float32, device=image.device).view(1, 3, 1, 1)
    luma = (image.float() * weights).sum(dim=1, keepdim=True) * LEVELS_OF_RANGE  # (B, 1, H, W)
    mean = F.avg_pool2d(luma, size.cell)  # (B, 1, H/R, W/R)
    deviation = (F.avg_pool2d(luma.square(), size.cell) - mean.square()).clamp(min=0).sqrt()
    busy = (_with_neighbours(deviation) / size.mask_levels).clamp(max=1)  # (B, 1, H/R, W/R)
    return _to_pixels(size, size.mask_floor + (1 - size.mask_floor) * busy)


def _with_neighbours(cells: Tensor) -> Tensor:
    """Averages each of (B, C, h, w) cells with those around it."""
    return F.avg_pool2d(cells, 3, stride=1, padding=1, count_include_pad=False)


def _to_pixels(size: ConvolutionalSize, cells: Tensor) -> Tensor:
    """Enlarges (B, C, H/R, W/R) to (B, C, H, W), bilinearly."""
    return F.interpolate(cells, scale_factor=float(size.cell), mode="bilinear", align_corners=False)


CONVOLUTIONAL_SIZES = {
    "conv-56": ConvolutionalSize(working_resolution=128, largest_side=768, cell=8, width=56),
    "tiny-conv": ConvolutionalSize(working_resolution=32, largest_side=64, cell=4, width=8),
}

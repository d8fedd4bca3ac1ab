"""The defender: a vision transformer that outputs a protective perturbation in one forward pass.

The network of RID (arXiv 2412.09844): a DiT in pixel space whose conditioning is constant, written here with that
constant already folded: the adaptive LayerNorm's shift and scale are an affine LayerNorm, its gate is a vector.

B batch, S image side, P patch side, G = S/P patches a side, T = G*G tokens, D width, H heads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rid.models.budget import BudgetRange


@dataclass(frozen=True)
class DefenderSize:
    """One architecture.

    Attributes:
        working_resolution: S, the side in pixels of the square the network sees.
        patch: P, the side of a patch; divides S.
        width: D.
        depth: number of blocks.
        heads: attention heads; divides D.
        mlp_ratio: hidden width of the MLP over D.
        stored_positions: whether the position embedding is one of the weights instead of the fixed sine-cosine one;
            for imported checkpoints that bring their own.
    """

    working_resolution: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    stored_positions: bool = False

    def __post_init__(self) -> None:
        if self.working_resolution % self.patch or self.width % self.heads or self.width % 4:
            raise ValueError(
                f"{self} is not a defender: patch must divide working_resolution, heads and 4 must divide width"
            )

    def to_json(self) -> dict[str, int | str]:
        """Returns the architecture as it stands in a defender's config.json."""
        architecture = {"class": "Defender", **asdict(self)}
        if not self.stored_positions:
            del architecture["stored_positions"]
        return architecture

    @classmethod
    def from_json(cls, architecture: dict[str, int | str]) -> DefenderSize:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if a field is missing, unknown, or of another class.
        """
        given = {"stored_positions": False, **architecture}
        if given.pop("class", None) != "Defender" or set(given) != {field.name for field in fields(cls)}:
            raise ValueError(f"architecture {architecture} is not a Defender of this version")
        stored_positions = bool(given.pop("stored_positions"))
        return cls(**{name: int(value) for name, value in given.items()}, stored_positions=stored_positions)


class Attention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        B, T, D = tokens.shape
        qkv = self.qkv(tokens).view(B, T, 3, self.heads, D // self.heads)  # (B, T, 3, H, D/H)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D/H) each
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B, H, T, D/H)
        return torch.as_tensor(self.proj(mixed.transpose(1, 2).reshape(B, T, D)))  # (B, T, D)


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        return torch.as_tensor(self.fc2(F.gelu(self.fc1(tokens), approximate="tanh")))


class Block(nn.Module):
    """Pre-LayerNorm transformer block; each residual branch has a gate, zero at first (adaLN-zero)."""

    def __init__(self, size: DefenderSize) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attn = Attention(size.width, size.heads)
        self.gate1 = nn.Parameter(torch.zeros(size.width))
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.mlp = Mlp(size.width, size.mlp_ratio * size.width)
        self.gate2 = nn.Parameter(torch.zeros(size.width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        tokens = tokens + self.gate1 * self.attn(self.norm1(tokens))
        return torch.as_tensor(tokens + self.gate2 * self.mlp(self.norm2(tokens)))


class Defender(nn.Module):
    """Maps an image to a perturbation bounded by a budget.

    A fresh defender outputs exactly zero. The budget multiplies the last tanh and enters nowhere else, so one network
    serves every budget it was trained for. A defender that was read from a folder knows which ones those are, and
    refuses others.
    """

    positions: Tensor

    def __init__(self, size: DefenderSize, budget: BudgetRange | None = None) -> None:
        """Makes a fresh network.

        Args:
            size: its architecture.
            budget: the budgets it serves; None while they are not settled, when every budget is accepted.
        """
        super().__init__()
        self.size = size
        self.budget = budget
        self.patches = nn.Conv2d(3, size.width, size.patch, stride=size.patch)
        grid = size.working_resolution // size.patch
        positions = sincos_positions(size.width, grid)  # (T, D)
        self.register_buffer("positions", positions, persistent=size.stored_positions)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.linear = nn.Linear(size.width, size.patch * size.patch * 3)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.weight.view(self.size.width, -1))
        nn.init.zeros_(self.linear.weight)

    def forward(self, image: Tensor, budget_levels: Tensor) -> Tensor:
        """Returns the perturbation.

        Args:
            image: (B, 3, S, S) tensor in [-1, 1].
            budget_levels: (B,) tensor of budgets in 8-bit levels.

        Returns:
            (B, 3, S, S) tensor in 8-bit levels, within plus and minus the budget of each image.

        Raises:
            ValueError: if the defender was not trained for one of the budgets.
        """
        if self.budget is not None and not torch.compiler.is_compiling():
            for levels in budget_levels.tolist():
                self.budget.check(levels)
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.positions  # (B, T, D)
        for block in self.blocks:
            tokens = block(tokens)  # (B, T, D)
        tokens = self.linear(self.norm(tokens))  # (B, T, P*P*3)
        return budget_levels.view(-1, 1, 1, 1) * torch.tanh(self.unpatchify(tokens))  # (B, 3, S, S)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Lays (B, T, P*P*3) tokens, last axis ordered (P, P, channel), out as (B, 3, S, S)."""
        P, G = self.size.patch, self.size.working_resolution // self.size.patch
        pixels = tokens.view(-1, G, G, P, P, 3).permute(0, 5, 1, 3, 2, 4)  # (B, 3, G, P, G, P)
        return pixels.reshape(-1, 3, G * P, G * P)


def sincos_positions(width: int, grid: int) -> Tensor:
    """Returns the fixed 2-D sine-cosine position embedding, (grid*grid, width).

    The first half of the channels encodes the column, the second the row, as in the published checkpoints.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))  # (D/4,)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (G, D/4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (G, D/2)
    columns = axis[None, :, :].expand(grid, grid, -1)  # (G, G, D/2)
    rows = axis[:, None, :].expand(grid, grid, -1)  # (G, G, D/2)
    return torch.cat([columns, rows], dim=2).reshape(grid * grid, width).float()  # (T, D)


@torch.no_grad()
def fold(defender: Defender) -> Defender:
    """Returns an equal network whose affine LayerNorms and gates are folded into the neighbouring linear layers.

    The result's LayerNorms have weight 1 and bias 0 and its gates are 1: an exporter drops them.
    """
    folded = Defender(defender.size, defender.budget)
    folded.load_state_dict(defender.state_dict())
    for block in folded.blocks:
        assert isinstance(block, Block)
        _fold_norm(block.norm1, block.attn.qkv)
        _fold_norm(block.norm2, block.mlp.fc1)
        _fold_gate(block.gate1, block.attn.proj)
        _fold_gate(block.gate2, block.mlp.fc2)
    _fold_norm(folded.norm, folded.linear)
    return folded.eval()


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    linear.bias.add_(linear.weight @ norm.bias)
    linear.weight.mul_(norm.weight)
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def _fold_gate(gate: nn.Parameter, linear: nn.Linear) -> None:
    linear.weight.mul_(gate[:, None])
    linear.bias.mul_(gate)
    gate.fill_(1.0)


SIZES = {
    "rid-512": DefenderSize(working_resolution=512, patch=16, width=1152, depth=14, heads=8),  # the paper's
    "base-512": DefenderSize(working_resolution=512, patch=32, width=768, depth=12, heads=12),
    "small-512": DefenderSize(working_resolution=512, patch=32, width=384, depth=12, heads=6),
    "faces-128": DefenderSize(working_resolution=128, patch=8, width=384, depth=8, heads=6),
    "faces-64": DefenderSize(working_resolution=64, patch=8, width=256, depth=6, heads=4),
    "tiny-64": DefenderSize(working_resolution=64, patch=8, width=64, depth=2, heads=2),
    "tiny-32": DefenderSize(working_resolution=32, patch=8, width=32, depth=2, heads=2),
}

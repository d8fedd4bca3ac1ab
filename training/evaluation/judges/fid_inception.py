"""The Inception-v3 of FID: Szegedy et al., arXiv 1512.00567, with the pooling of the TensorFlow graph of 2015-12-05.

Names are those of the published files (`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid,
`weights-inception-2015-12-05-6726825d.pth` of torch-fidelity). Pictures are resized as pytorch-fid does. The file is
read from where it is given or from torch's cache, and never fetched.

B batch, C channels, h and w sides of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

NAME = "Inception-v3, FID"
FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
SIDE = 299  # pixels
FEATURES = 2048
BATCH = 16


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True):
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h', w')."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side, by the names of the published files."""

    def __init__(self, **layers: Conv) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def through(self, x: Tensor, *names: str) -> Tensor:
        """Applies layers one after another."""
        for name in names:
            x = cast(Tensor, self.get_submodule(name)(x))
        return x


class InceptionA(Block):
    """35 x 35 pixels."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__(
            branch1x1=Conv(inputs, 64, 1),
            branch5x5_1=Conv(inputs, 48, 1),
            branch5x5_2=Conv(48, 64, 5),
            branch3x3dbl_1=Conv(inputs, 64, 1),
            branch3x3dbl_2=Conv(64, 96, 3),
            branch3x3dbl_3=Conv(96, 96, 3),
            branch_pool=Conv(inputs, pooled, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 224 + pooled, h, w)."""
        five = self.through(x, "branch5x5_1", "branch5x5_2")
        three = self.through(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.through(x, "branch1x1"), five, three, self.through(_average(x), "branch_pool")], 1)


class InceptionB(Block):
    """35 x 35 to 17 x 17 pixels."""

    def __init__(self, inputs: int) -> None:
        super().__init__(
            branch3x3=Conv(inputs, 384, 3, stride=2, padded=False),
            branch3x3dbl_1=Conv(inputs, 64, 1),
            branch3x3dbl_2=Conv(64, 96, 3),
            branch3x3dbl_3=Conv(96, 96, 3, stride=2, padded=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, inputs + 480, h / 2, w / 2)."""
        three = self.through(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.through(x, "branch3x3"), three, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionC(Block):
    """17 x 17 pixels."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__(
            branch1x1=Conv(inputs, 192, 1),
            branch7x7_1=Conv(inputs, inner, 1),
            branch7x7_2=Conv(inner, inner, (1, 7)),
            branch7x7_3=Conv(inner, 192, (7, 1)),
            branch7x7dbl_1=Conv(inputs, inner, 1),
            branch7x7dbl_2=Conv(inner, inner, (7, 1)),
            branch7x7dbl_3=Conv(inner, inner, (1, 7)),
            branch7x7dbl_4=Conv(inner, inner, (7, 1)),
            branch7x7dbl_5=Conv(inner, 192, (1, 7)),
            branch_pool=Conv(inputs, 192, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 768, h, w)."""
        seven = self.through(x, *(f"branch7x7_{step}" for step in (1, 2, 3)))
        double = self.through(x, *(f"branch7x7dbl_{step}" for step in (1, 2, 3, 4, 5)))
        return torch.cat([self.through(x, "branch1x1"), seven, double, self.through(_average(x), "branch_pool")], 1)


class InceptionD(Block):
    """17 x 17 to 8 x 8 pixels."""

    def __init__(self, inputs: int) -> None:
        super().__init__(
            branch3x3_1=Conv(inputs, 192, 1),
            branch3x3_2=Conv(192, 320, 3, stride=2, padded=False),
            branch7x7x3_1=Conv(inputs, 192, 1),
            branch7x7x3_2=Conv(192, 192, (1, 7)),
            branch7x7x3_3=Conv(192, 192, (7, 1)),
            branch7x7x3_4=Conv(192, 192, 3, stride=2, padded=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, inputs + 512, h / 2, w / 2)."""
        seven = self.through(x, *(f"branch7x7x3_{step}" for step in (1, 2, 3, 4)))
        return torch.cat([self.through(x, "branch3x3_1", "branch3x3_2"), seven, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionE(Block):
    """8 x 8 pixels; the last block of the graph pools with the maximum."""

    def __init__(self, inputs: int, *, largest: bool) -> None:
        super().__init__(
            branch1x1=Conv(inputs, 320, 1),
            branch3x3_1=Conv(inputs, 384, 1),
            branch3x3_2a=Conv(384, 384, (1, 3)),
            branch3x3_2b=Conv(384, 384, (3, 1)),
            branch3x3dbl_1=Conv(inputs, 448, 1),
            branch3x3dbl_2=Conv(448, 384, 3),
            branch3x3dbl_3a=Conv(384, 384, (1, 3)),
            branch3x3dbl_3b=Conv(384, 384, (3, 1)),
            branch_pool=Conv(inputs, 192, 1),
        )
        self._largest = largest

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 2048, h, w)."""
        three = self.through(x, "branch3x3_1")
        double = self.through(x, "branch3x3dbl_1", "branch3x3dbl_2")
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self._largest else _average(x)
        wide = [self.through(three, f"branch3x3_2{side}") for side in "ab"]
        wide += [self.through(double, f"branch3x3dbl_3{side}") for side in "ab"]
        return torch.cat([self.through(x, "branch1x1"), *wide, self.through(pooled, "branch_pool")], 1)


class FidInception(nn.Sequential):
    """From (B, 3, 299, 299) pictures in [-1, 1] to (B, 2048, 8, 8) activations."""

    def __init__(self) -> None:
        super().__init__()
        layers = {
            "Conv2d_1a_3x3": Conv(3, 32, 3, stride=2, padded=False),
            "Conv2d_2a_3x3": Conv(32, 32, 3, padded=False),
            "Conv2d_2b_3x3": Conv(32, 64, 3),
            "MaxPool_1": nn.MaxPool2d(3, stride=2),
            "Conv2d_3b_1x1": Conv(64, 80, 1),
            "Conv2d_4a_3x3": Conv(80, 192, 3, padded=False),
            "MaxPool_2": nn.MaxPool2d(3, stride=2),
            "Mixed_5b": InceptionA(192, 32),
            "Mixed_5c": InceptionA(256, 64),
            "Mixed_5d": InceptionA(288, 64),
            "Mixed_6a": InceptionB(288),
            **{
                f"Mixed_6{name}": InceptionC(768, inner)
                for name, inner in zip("bcde", (128, 160, 160, 192), strict=True)
            },
            "Mixed_7a": InceptionD(768),
            "Mixed_7b": InceptionE(1280, largest=False),
            "Mixed_7c": InceptionE(2048, largest=True),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)


def find_inception(given: str = "") -> Path | None:
    """Returns the file with the weights: the given one, or one in torch's cache.

    Raises:
        ValueError: if the given file is not there.
    """
    if given:
        if not Path(given).is_file():
            raise ValueError(f"there is no file {given}: give one of {' or '.join(FILES)}, or none")
        return Path(given)
    cached = (Path(torch.hub.get_dir()) / "checkpoints" / name for name in FILES)
    return next((file for file in cached if file.is_file()), None)


def load_inception(file: Path) -> FidInception:
    """Reads published weights; nothing in the file is executed.

    Raises:
        ValueError: if they are not of this network.
    """
    network = FidInception()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    counts = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    wanted = set(network.state_dict()) - counts
    if missing := sorted(wanted - set(stored)):
        raise ValueError(f"{file.name} is not FID's Inception-v3: it lacks {len(missing)} weights, {missing[0]} first")
    network.load_state_dict({name: stored[name] for name in wanted}, strict=False)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def inception_features(network: FidInception, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Returns (N, 2048) features of N (H, W, 3) uint8 pictures."""
    found = [np.zeros((0, FEATURES), np.float32)]
    for start in range(0, len(pictures), BATCH):
        resized = [_resized(picture) for picture in pictures[start : start + BATCH]]
        hidden = network(torch.cat(resized) * 2 - 1)  # (B, 2048, 8, 8)
        found.append(hidden.mean(dim=(2, 3)).numpy())
    return np.concatenate(found)


def _resized(picture: NDArray[np.uint8]) -> Tensor:
    """(1, 3, 299, 299) in [0, 1]."""
    planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255
    return F.interpolate(planes, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def _average(x: Tensor) -> Tensor:
    """The border does not count, as in TensorFlow."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

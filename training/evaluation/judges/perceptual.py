"""Perceptual distance, by a network that sees as people do: LPIPS where its weights are, else ST-LPIPS.

`stlpips-pytorch` of the extra [evaluate] holds all of ST-LPIPS. The package `lpips` holds the heads alone; its trunk is
torchvision's AlexNet, which is used if torch's cache has it and never fetched. What was measured is always named. Only
weights are read from the packages: their code needs a torchvision that was built for the installed torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.models.photo_files.resampling import shrink

if TYPE_CHECKING:
    from torch import Tensor

    from rid.training.evaluation.judges.alexnet_distance import AlexNetDistance

SIDE = 256  # pixels, the short side at which pictures are compared, as for SSIM
SMALLEST = 64  # pixels, to which smaller pictures are enlarged
TRUNK = "alexnet-owt-7be5be79.pth"  # torchvision's name
HEADS = ("weights", "v0.1", "alex.pth")
SHIFT_TOLERANT = ("weights", "vST0.0", "alex_shift_tolerant.pth")


class PerceptualMissing(RuntimeError):
    """No perceptual distance can be measured here; the message says what is missing."""


@dataclass(frozen=True)
class PerceptualDistances:
    """The measured distances.

    Attributes:
        name: of the distance and its network.
        values: (N,), 0 for equal pictures.
    """

    name: str
    values: NDArray[np.float32] = field(hash=False)


def perceptual_distances(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> PerceptualDistances:
    """Returns the distance of each pair.

    Args:
        pairs: (H, W, 3) uint8 pictures, two of equal shape each.

    Raises:
        PerceptualMissing: if neither package is installed with its weights.
    """
    name, network = perceptual_network()
    values = [float(network(_signed(x), _signed(y))) for x, y in pairs]
    return PerceptualDistances(name, np.array(values, np.float32))


@cache
def perceptual_network() -> tuple[str, AlexNetDistance]:
    """The distance of this process and its name.

    Raises:
        PerceptualMissing: if neither package is installed with its weights.
    """
    import torch

    from rid.training.evaluation.judges.alexnet_distance import AlexNetDistance

    heads = _packaged("lpips", HEADS)
    trunk = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK
    if heads and trunk.is_file():
        return "LPIPS alex", AlexNetDistance(_read(trunk) | _read(heads))
    whole = _packaged("stlpips_pytorch", SHIFT_TOLERANT)
    if whole is None:
        raise PerceptualMissing("the package stlpips-pytorch is not installed: install the extra [evaluate]")
    return "ST-LPIPS alex", AlexNetDistance(_read(whole))


def _packaged(package: str, parts: tuple[str, ...]) -> Path | None:
    """Returns a file of an installed package without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent.joinpath(*parts)


def _read(file: Path) -> dict[str, Tensor]:
    import torch

    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _signed(picture: NDArray[np.uint8]) -> Tensor:
    import torch

    small = shrink(np.ascontiguousarray(picture), min(SIDE, *picture.shape[:2]))
    if min(small.shape[:2]) < SMALLEST:
        scale = SMALLEST / min(small.shape[:2])
        sides = tuple(max(SMALLEST, round(scale * side)) for side in small.shape[1::-1])
        small = np.asarray(cv2.resize(small, sides, interpolation=cv2.INTER_CUBIC), np.uint8)
    return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))[None]).float() / 127.5 - 1  # (1, 3, h, w)

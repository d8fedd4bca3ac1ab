"""The photos that a teacher perturbs, as tensors, and the random numbers that belong to each.

N photos, B of them in a batch, S side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.budget import levels_to_signed
from rid.training.noise import StepNoise


@dataclass(frozen=True)
class Photos:
    """The photos of one run of a teacher.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        device: where the tensors are.
    """

    pixels: NDArray[np.uint8]
    device: torch.device
    levels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3 or self.pixels.dtype != np.uint8 or not len(self.pixels):
            raise ValueError(f"photos must be (N, S, S, 3) uint8, N >= 1; given are {self.pixels.dtype} {self.shape}")
        planes = torch.from_numpy(np.ascontiguousarray(self.pixels.transpose(0, 3, 1, 2)))
        object.__setattr__(self, "levels", planes.to(self.device).float())  # (N, 3, S, S), 0..255

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels."""
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, delta: Tensor | None = None, rows: Sequence[int] | None = None) -> Tensor:
        """Returns some or all photos as (B, 3, S, S) in [-1, 1], with `delta` (B, 3, S, S) levels added."""
        levels = self.levels if rows is None else self.levels[list(rows)]
        return levels_to_signed(levels if delta is None else levels + delta) - 1

    def noise(self, seed: int, purpose: str, step: int, rows: Sequence[int]) -> StepNoise:
        """Returns random numbers that depend on the seed, the purpose, the step and each photo's own pixels."""
        return StepNoise(seed, step, [_integer(self.pixels[row], purpose) for row in rows])

    def batches(self, size: int) -> list[list[int]]:
        """Returns rows in batches of one size; the last is filled up from the start. Only its first are new."""
        count = len(self)
        return [[(start + i) % count for i in range(size)] for start in range(0, count, size)]


def _integer(photo: NDArray[np.uint8], purpose: str) -> int:
    digest = hashlib.sha256(purpose.encode() + b"\0" + np.ascontiguousarray(photo).tobytes()).digest()
    return int.from_bytes(digest[:16], "little")

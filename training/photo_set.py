"""The photos of a training run, at the defender's working resolution or larger, and the perturbations of some.

N photos, M of them with a teacher perturbation, R side, at least the working resolution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhotoSet:
    """Square uint8 photos, and teacher perturbations of a share of them.

    Attributes:
        pixels: (N, R, R, 3) uint8, upright; may be a memory map. Batches are random crops of it.
        teacher_index: (M,) int64, which photos have a teacher perturbation.
        teacher: (M, R, R, 3) int8, those perturbations in 8-bit levels.
        teacher_budget: the budget they were made with, in 8-bit levels; 0 if M is 0.
    """

    pixels: NDArray[np.uint8]
    teacher_index: NDArray[np.int64]
    teacher: NDArray[np.int8]
    teacher_budget: int

    def __post_init__(self) -> None:
        if len(self.pixels) == 0:
            raise ValueError("there is no photo to train on: protect or catalogue a drop first")
        if self.teacher.shape != (len(self.teacher_index), *self.pixels.shape[1:]):
            raise ValueError(
                f"teacher perturbations {self.teacher.shape} do not belong to {len(self.teacher_index)} photos of "
                f"{self.pixels.shape[1:]}: precompute them for these photos"
            )
        if len(self.teacher) and int(np.abs(self.teacher.astype(np.int16)).max()) > self.teacher_budget:
            raise ValueError("a teacher perturbation exceeds the budget it claims")

    @property
    def side(self) -> int:
        """R, in pixels."""
        return int(self.pixels.shape[1])

    def photos_digest(self) -> str:
        """Returns the sha256 of the photos, in their order."""
        return _array_digest(self.pixels)

    def teacher_digest(self) -> str:
        """Returns the sha256 of the perturbations, of the photos they belong to, and of their budget."""
        return _array_digest(self.teacher_index, self.teacher, np.array(self.teacher_budget))


def _array_digest(*arrays: NDArray[np.generic]) -> str:
    """sha256 of arrays; of a memory map one photo is read at a time."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        for part in array if array.ndim > 1 else [array]:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def seeded_share(squares: Sequence[NDArray[np.uint8]], share: float, seed: int) -> list[int]:
    """Returns which photos belong to the seeded share; it depends on each photo's pixels alone, so it grows stably."""
    return [i for i, square in enumerate(squares) if in_share(square.tobytes(), share, seed)]


def in_share(content: bytes, share: float, seed: int) -> bool:
    """Whether something belongs to a seeded share, by a hash of its content."""
    salt = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.sha256(salt + content).digest()[:4], "big") < int(share * 2**32)

"""The photos of a training run, at the defender's working resolution or larger, and the perturbations of some.

Both may lie in memory or, as a `ShardedArray`, in files: then nothing here grows with the number of photos.

N photos, M of them with a teacher perturbation, R side, at least the working resolution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rid.training.sharded_array import Items, ShardedArray, content_digest


@dataclass(frozen=True)
class PhotoSet:
    """Square uint8 photos, and teacher perturbations of a share of them.

    Attributes:
        pixels: (N, R, R, 3) uint8, upright. Batches are random crops of it.
        teacher_index: (M,) int64, which photos have a teacher perturbation.
        teacher: (M, R, R, 3) int8, those perturbations in 8-bit levels; in files they are checked against the budget
            when they are written, and each again when it is read.
        teacher_budget: the budget they were made with, in 8-bit levels; 0 if M is 0.
    """

    pixels: Items
    teacher_index: NDArray[np.int64]
    teacher: Items
    teacher_budget: int

    def __post_init__(self) -> None:
        if len(self.pixels) == 0:
            raise ValueError("there is no photo to train on: protect or catalogue a drop first")
        if tuple(self.teacher.shape) != (len(self.teacher_index), *self.pixels.shape[1:]):
            raise ValueError(
                f"teacher perturbations {self.teacher.shape} do not belong to {len(self.teacher_index)} photos of "
                f"{self.pixels.shape[1:]}: precompute them for these photos"
            )
        if not isinstance(self.teacher, ShardedArray):
            check_within_budget(self.teacher, self.teacher_budget)

    @property
    def side(self) -> int:
        """R, in pixels."""
        return int(self.pixels.shape[1])

    def photos_digest(self) -> str:
        """Returns the sha256 of the photos in their order; of those in files, of the files' names and lengths."""
        return content_digest(self.pixels)

    def teacher_digest(self) -> str:
        """Returns the sha256 of the perturbations, of the photos they belong to, and of their budget."""
        named = [content_digest(self.teacher_index), content_digest(self.teacher), self.teacher_budget]
        return hashlib.sha256(repr(named).encode()).hexdigest()

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Returns one (R, R, 3) photo."""
        found: NDArray[np.uint8] = self.pixels[index]
        return found

    def perturbation(self, pair: int) -> NDArray[np.int8]:
        """Returns one (R, R, 3) perturbation.

        Raises:
            ValueError: if it exceeds the budget.
        """
        levels: NDArray[np.int8] = self.teacher[pair]
        if isinstance(self.teacher, ShardedArray):
            check_within_budget(levels, self.teacher_budget)
        return levels


def check_within_budget(levels: NDArray[np.int8], budget: int) -> None:
    """Checks perturbations of any shape.

    Raises:
        ValueError: if one exceeds the budget.
    """
    if levels.size and max(int(levels.max()), -int(levels.min())) > budget:
        raise ValueError("a teacher perturbation exceeds the budget it claims")


def seeded_share(squares: Sequence[NDArray[np.uint8]], share: float, seed: int) -> list[int]:
    """Returns which photos belong to the seeded share; it depends on each photo's pixels alone, so it grows stably."""
    return [i for i, square in enumerate(squares) if in_share(square.tobytes(), share, seed)]


def in_share(content: bytes, share: float, seed: int) -> bool:
    """Returns whether something belongs to a seeded share, by a hash of its content."""
    salt = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.sha256(salt + content).digest()[:4], "big") < int(share * 2**32)

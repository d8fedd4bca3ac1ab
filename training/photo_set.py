"""The photos of a training run, at the defender's working resolution, and the perturbations teachers made for some.

N photos, M of them with a teacher perturbation, S working resolution.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhotoSet:
    """Square uint8 photos, and teacher perturbations of a share of them.

    Attributes:
        pixels: (N, S, S, 3) uint8, upright; may be a memory map.
        teacher_index: (M,) int64, which photos have a teacher perturbation.
        teacher: (M, S, S, 3) int8, those perturbations in 8-bit levels.
        teacher_budget: the budget they were made with, in 8-bit levels; 0 if M is 0.
    """

    pixels: NDArray[np.uint8]
    teacher_index: NDArray[np.int64]
    teacher: NDArray[np.int8]
    teacher_budget: int

    def __post_init__(self) -> None:
        if len(self.pixels) == 0:
            raise ValueError("there is no photo to train on: protect or catalogue a drop first")
        if len(self.teacher) and int(np.abs(self.teacher.astype(np.int16)).max()) > self.teacher_budget:
            raise ValueError("a teacher perturbation exceeds the budget it claims")

    def save(self, folder: Path) -> None:
        """Writes the arrays as .npy files that `load` maps into memory."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "pixels.npy", self.pixels)
        np.save(folder / "teacher_index.npy", self.teacher_index)
        np.save(folder / "teacher.npy", self.teacher)
        np.save(folder / "teacher_budget.npy", np.array(self.teacher_budget))

    @classmethod
    def load(cls, folder: Path) -> PhotoSet:
        """Maps what `save` wrote."""
        return cls(
            pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
            teacher_index=np.load(folder / "teacher_index.npy"),
            teacher=np.load(folder / "teacher.npy", mmap_mode="r"),
            teacher_budget=int(np.load(folder / "teacher_budget.npy")),
        )

    def digest(self) -> str:
        """Returns the sha256 of all arrays; two equal sets train equal defenders."""
        digest = hashlib.sha256(f"{self.pixels.shape} {self.teacher.shape} {self.teacher_budget}".encode())
        for array in (self.pixels, self.teacher_index, self.teacher):
            for start in range(0, len(array), 1024):
                digest.update(np.ascontiguousarray(array[start : start + 1024]).tobytes())
        return digest.hexdigest()

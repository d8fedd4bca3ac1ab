"""The photos of a training run, at the defender's working resolution, and the perturbations teachers made for some.

N photos, M of them with a teacher perturbation, S working resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

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

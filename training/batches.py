"""Counter-based batches: what step k sees depends on the seed and on k alone.

So a resumed run sees what an uninterrupted one sees, and the number of workers changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.budget import levels_to_signed
from training.config import TrainingConfig
from training.photo_set import PhotoSet


@dataclass(frozen=True)
class Batch:
    """One step's photos.

    Attributes:
        image: (B, 3, S, S) in [-1, 1].
        budget_levels: (B,) in 8-bit levels.
        pair_image: (P, 3, S, S) in [-1, 1], photos with a teacher perturbation; P may be 0.
        pair_budget_levels: (P,), the teacher's budget.
        pair_perturbation: (P, 3, S, S) the teacher's perturbation in the [-1, 1] convention.
    """

    image: Tensor
    budget_levels: Tensor
    pair_image: Tensor
    pair_budget_levels: Tensor
    pair_perturbation: Tensor

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def make_batch(photos: PhotoSet, config: TrainingConfig, step: int) -> Batch:
    """Draws step `step`'s photos, flips and budgets; a flip acts on photo and perturbation together."""
    random = np.random.Generator(np.random.Philox(key=np.array([config.seed, step], dtype=np.uint64)))
    index = random.integers(0, len(photos.pixels), config.batch)
    flips = random.random(config.batch) < 0.5
    budgets = random.integers(config.budget_min, config.budget_max + 1, config.batch)
    pairs = config.pair_batch if len(photos.teacher) and config.regression_weight else 0
    pair = random.integers(0, max(1, len(photos.teacher)), pairs)
    pair_flips = random.random(pairs) < 0.5
    size = photos.pixels.shape[1]
    teacher = photos.teacher[pair] if pairs else np.zeros((0, size, size, 3), np.int8)
    pair_pixels = photos.pixels[photos.teacher_index[pair]] if pairs else np.zeros((0, size, size, 3), np.uint8)
    return Batch(
        image=pixels_to_signed(_flip(photos.pixels[index], flips)),
        budget_levels=torch.from_numpy(budgets).float(),
        pair_image=pixels_to_signed(_flip(pair_pixels, pair_flips)),
        pair_budget_levels=torch.full((pairs,), float(photos.teacher_budget)),
        pair_perturbation=levels_to_signed(_channels_first(_flip(teacher, pair_flips)).float()),
    )


def step_generator(seed: int, step: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns the generator of one step's noise; `stream` keeps several uses of one step apart."""
    state = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state >> np.uint64(1)))


def pixels_to_signed(pixels: NDArray[np.uint8]) -> Tensor:
    """Converts (B, S, S, 3) uint8 to (B, 3, S, S) float32 in [-1, 1]."""
    return _channels_first(pixels).float() / 127.5 - 1.0


def _channels_first(pixels: NDArray[np.uint8] | NDArray[np.int8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _flip(pixels: NDArray, flips: NDArray[np.bool_]) -> NDArray:  # type: ignore[type-arg]
    chosen = np.array(pixels)  # a copy: the set may be a read-only memory map
    chosen[flips] = chosen[flips][:, :, ::-1]
    return chosen

"""Counter-based batches: what step k sees depends on the seed and on k alone.

So a resumed run sees what an uninterrupted one sees, and a batch is the same whatever the number of processes.

B photos and P pairs of this process, S working resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.budget import levels_to_signed
from rid.models.defender import SIZES
from rid.training.config import TrainingConfig
from rid.training.photo_set import PhotoSet


@dataclass(frozen=True)
class Batch:
    """One step's photos, or a part of them.

    Attributes:
        positions: B places in the step's whole batch, which seed the photos' noise.
        image: (B, 3, S, S) in [-1, 1].
        budget_levels: (B,) in 8-bit levels.
        pair_image: (P, 3, S, S) in [-1, 1], photos with a teacher perturbation; P may be 0.
        pair_budget_levels: (P,), the teacher's budget.
        pair_perturbation: (P, 3, S, S) the teacher's perturbation in the [-1, 1] convention.
    """

    positions: range
    image: Tensor
    budget_levels: Tensor
    pair_image: Tensor
    pair_budget_levels: Tensor
    pair_perturbation: Tensor

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        tensors = (self.image, self.budget_levels, self.pair_image, self.pair_budget_levels, self.pair_perturbation)
        return Batch(self.positions, *(tensor.to(device) for tensor in tensors))

    def split(self, largest: int) -> list[Batch]:
        """Cuts into micro-batches of at most `largest` photos and `largest` pairs each."""
        count = max(1, -(-max(len(self.image), len(self.pair_image)) // largest))
        photos = [part_of(len(self.image), index, count) for index in range(count)]
        pairs = [part_of(len(self.pair_image), index, count) for index in range(count)]
        return [
            Batch(
                self.positions[photo.start : photo.stop],
                self.image[photo.start : photo.stop],
                self.budget_levels[photo.start : photo.stop],
                self.pair_image[pair.start : pair.stop],
                self.pair_budget_levels[pair.start : pair.stop],
                self.pair_perturbation[pair.start : pair.stop],
            )
            for photo, pair in zip(photos, pairs, strict=True)
        ]


@dataclass(frozen=True)
class _Draws:
    """Which photos, which window of each, which are mirrored."""

    index: NDArray[np.int64]
    corner: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    @classmethod
    def draw(cls, random: np.random.Generator, count: int, photos: int, margin: int) -> _Draws:
        index = random.integers(0, max(1, photos), count)
        return cls(index, random.integers(0, margin + 1, (count, 2)), random.random(count) < 0.5)

    def windows(self, source: NDArray, index: NDArray, part: range, side: int) -> Tensor:  # type: ignore[type-arg]
        """Cuts (part, S, S, 3) windows out of source[index], mirrors some, and returns them as (part, 3, S, S)."""
        chosen = np.empty((len(part), side, side, 3), source.dtype)
        for row, place in enumerate(part):
            top, left = self.corner[place]
            window = source[index[place], top : top + side, left : left + side]
            chosen[row] = window[:, ::-1] if self.mirrored[place] else window
        return torch.from_numpy(np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)))


def make_batch(photos: PhotoSet, config: TrainingConfig, step: int, *, process: int = 0, processes: int = 1) -> Batch:
    """Draws step `step`'s photos, crops, flips and budgets, and returns one process's share of them.

    A crop and a flip act on a photo and its perturbation together. Photos are drawn with replacement: a set smaller
    than a batch is fine, and none is left out for standing at its end.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([config.seed, step], dtype=np.uint64)))
    side = SIZES[config.size].working_resolution
    margin = photos.side - side
    drawn = _Draws.draw(random, config.batch, len(photos.pixels), margin)
    budgets = random.integers(config.budget_min, config.budget_max + 1, config.batch)
    pairs = config.pair_batch if len(photos.teacher) and config.regression_weight else 0
    pair = _Draws.draw(random, pairs, len(photos.teacher), margin)
    part = part_of(config.batch if config.uses_models else 0, process, processes)
    pair_part = part_of(pairs, process, processes)
    pair_photo = photos.teacher_index[pair.index] if pairs else pair.index
    return Batch(
        positions=part,
        image=_signed(drawn.windows(photos.pixels, drawn.index, part, side)),
        budget_levels=torch.from_numpy(budgets[part.start : part.stop]).float(),
        pair_image=_signed(pair.windows(photos.pixels, pair_photo, pair_part, side)),
        pair_budget_levels=torch.full((len(pair_part),), float(photos.teacher_budget)),
        pair_perturbation=levels_to_signed(pair.windows(photos.teacher, pair.index, pair_part, side).float()),
    )


def part_of(count: int, part: int, parts: int) -> range:
    """Returns which of `count` things belong to one of `parts` parts, of equal size but for one."""
    return range(part * count // parts, (part + 1) * count // parts)


def pixels_to_signed(pixels: NDArray[np.uint8]) -> Tensor:
    """Converts (B, S, S, 3) uint8 to (B, 3, S, S) float32 in [-1, 1]."""
    return _signed(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))


def _signed(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1.0

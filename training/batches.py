"""Counter-based batches: what step k sees depends on the seed and on k alone.

So a resumed run sees what an uninterrupted one sees, and a batch is the same whatever the number of processes.

B photos and P pairs of this process, S working resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.budget import levels_to_signed
from rid.models.networks import SIZES
from rid.training.config import TrainingConfig
from rid.training.photo_set import PhotoSet


@dataclass(frozen=True)
class DrawnBatch:
    """One process's share of a step as whole levels: a quarter of the bytes that `Batch` has.

    Attributes:
        positions: B places in the step's whole batch.
        image: (B, 3, S, S) uint8; of shared windows (B, 3, W, W).
        budget_levels: (B,) float32, in 8-bit levels.
        pair_image: (P, 3, S, S) uint8, photos with a teacher perturbation; P may be 0.
        pair_budget_levels: (P,) float32, the teacher's budget.
        pair_perturbation: (P, 3, S, S) int8, in 8-bit levels.
    """

    positions: range
    image: Tensor
    budget_levels: Tensor
    pair_image: Tensor
    pair_budget_levels: Tensor
    pair_perturbation: Tensor

    def pinned(self) -> DrawnBatch:
        """Returns the batch in page-locked memory, from which a GPU copies while it computes."""
        return DrawnBatch(self.positions, *(tensor.pin_memory() for tensor in self._tensors()))

    def to(self, device: torch.device) -> Batch:
        """Copies the levels to a device and converts them there."""
        image, budget, pair_image, pair_budget, levels = (
            tensor.to(device, non_blocking=True) for tensor in self._tensors()
        )
        perturbation = levels_to_signed(levels.float())
        return Batch(self.positions, _signed(image), budget, _signed(pair_image), pair_budget, perturbation)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.image, self.budget_levels, self.pair_image, self.pair_budget_levels, self.pair_perturbation


@dataclass(frozen=True)
class Batch:
    """One step's photos, or a part of them, as the losses take them.

    Attributes:
        positions: B places in the step's whole batch, which seed the photos' noise.
        image: (B, 3, S, S) in [-1, 1]; of shared windows (B, 3, W, W).
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


class _Source(NamedTuple):
    """The pictures that windows are cut from: `item(i)` is (R, R, 3)."""

    item: Callable[[int], NDArray[Any]]
    dtype: type[np.integer[Any]]


@dataclass(frozen=True)
class _Draws:
    """Draws of photos, of a window in each, and of mirroring."""

    index: NDArray[np.int64]
    corner: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    @classmethod
    def draw(cls, random: np.random.Generator, count: int, photos: int, margin: int) -> _Draws:
        index = random.integers(0, max(1, photos), count)
        return cls(index, random.integers(0, margin + 1, (count, 2)), random.random(count) < 0.5)

    @classmethod
    def draw_shared(cls, random: np.random.Generator, count: int, photos: int, margin: int) -> _Draws:
        """Draws photos, and one window and mirroring for all of them."""
        index = random.integers(0, max(1, photos), count)
        corner = random.integers(0, margin + 1, (1, 2)).repeat(count, axis=0)
        return cls(index, corner, np.full(count, random.random() < 0.5))

    def windows(self, source: _Source, index: NDArray[np.int64], part: range, side: int) -> Tensor:
        """Cuts S x S windows out of source(index), mirrors some, and returns a part of them as (part, 3, S, S)."""
        chosen = np.empty((len(part), side, side, 3), source.dtype)
        for row, place in enumerate(part):
            top, left = self.corner[place]
            window = source.item(int(index[place]))[top : top + side, left : left + side]  # (S, S, 3)
            chosen[row] = window[:, ::-1] if self.mirrored[place] else window
        return torch.from_numpy(np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)))


def draw_batch(
    photos: PhotoSet, config: TrainingConfig, step: int, *, process: int = 0, processes: int = 1
) -> DrawnBatch:
    """Draws step `step`'s photos, crops, flips and budgets, and returns one process's share of them.

    A crop and a flip act on a photo and its perturbation together. With shared windows the photos of a step are W x W,
    equal windows that the losses resize to S. Photos are drawn with replacement: a set smaller
    than a batch is fine, and none is left out for standing at its end.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([config.seed, step], dtype=np.uint64)))
    side = SIZES[config.size].working_resolution
    margin = photos.side - side
    if config.shared_windows:
        window = _log_uniform(random, min(config.window_min, photos.side), photos.side)
        drawn = _Draws.draw_shared(random, config.batch, len(photos.pixels), photos.side - window)
    else:
        window = side
        drawn = _Draws.draw(random, config.batch, len(photos.pixels), margin)
    budgets = random.integers(config.budget_min, config.budget_max + 1, config.batch)
    pairs = config.pair_batch if len(photos.teacher) and config.regression_weight else 0
    pair = _Draws.draw(random, pairs, len(photos.teacher), margin)
    part = part_of(config.batch if config.uses_photos else 0, process, processes)
    pair_part = part_of(pairs, process, processes)
    pair_photo = photos.teacher_index[pair.index] if pairs else pair.index
    pixels, teacher = _Source(photos.photo, np.uint8), _Source(photos.perturbation, np.int8)
    return DrawnBatch(
        positions=part,
        image=drawn.windows(pixels, drawn.index, part, window),
        budget_levels=torch.from_numpy(budgets[part.start : part.stop]).float(),
        pair_image=pair.windows(pixels, pair_photo, pair_part, side),
        pair_budget_levels=torch.full((len(pair_part),), float(photos.teacher_budget)),
        pair_perturbation=pair.windows(teacher, pair.index, pair_part, side),
    )


def _log_uniform(random: np.random.Generator, low: int, high: int) -> int:
    """Returns a whole number from low to high, each octave as likely as the next."""
    return round(float(np.exp(random.uniform(np.log(low), np.log(high)))))


def part_of(count: int, part: int, parts: int) -> range:
    """Returns which of `count` things belong to one of `parts` parts, of equal size but for one."""
    return range(part * count // parts, (part + 1) * count // parts)


def pixels_to_signed(pixels: NDArray[np.uint8]) -> Tensor:
    """Converts (B, S, S, 3) uint8 to (B, 3, S, S) float32 in [-1, 1]."""
    return _signed(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))


def _signed(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1.0

"""Measurement, on workers, of how much protection raises a frozen model's diffusion loss on published photos.

It is measured end to end, on the files: both versions of a photo are decoded, and their upright centre squares are
resized to the model's own resolution, as an attacker would. Noise is matched in norm there, where the model sees it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rid.assets.catalog.plan import DropCatalog
from rid.assets.frozen.diffusion_models import load_models
from rid.assets.reports.pairs import PhotoPair, photo_pairs
from rid.models.upright_photos import centre_square
from rid.resources.commits import ProtectedTable
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.storage import Storage
from rid.training.evaluation.judges.perceptual import PerceptualDistances
from rid.training.evaluation.statistics import Interval, bootstrap_mean


@dataclass(frozen=True)
class LookTask:
    """Published photos that are compared with their originals.

    Attributes:
        receipts_url: the table.
        target_url: where a folder target keeps its files.
        drop: the drop's name.
        catalog: the drop's catalog.
        keys: the photos.
    """

    receipts_url: str
    target_url: str
    drop: str
    catalog: DropCatalog
    keys: tuple[str, ...]

    def pairs(self) -> Iterator[PhotoPair]:
        """Yields those whose originals can be read."""
        return photo_pairs(
            ProtectedTable(Storage(self.receipts_url)), Storage(self.target_url), self.drop, self.catalog, self.keys
        )


@dataclass(frozen=True)
class MeasureTask(LookTask):
    """One model and the photos to measure it on.

    Attributes:
        source: the model.
        draws: time steps a photo.
        seed: of time steps and noise.
    """

    source: DiffusionSource
    draws: int
    seed: int


@dataclass(frozen=True)
class ModelEffect:
    """The effect of protection on one model's diffusion loss.

    Attributes:
        model: its name.
        photos: number of photos.
        clean: the loss on clean photos.
        protected: what protection adds to it, paired over photos.
        gaussian: what Gaussian noise of equal norm adds.
        signs: what random signs of equal norm add.
        over_gaussian: protected minus Gaussian, paired.
        over_signs: protected minus signs, paired.
    """

    model: str
    photos: int
    clean: Interval = field(hash=False)
    protected: Interval = field(hash=False)
    gaussian: Interval = field(hash=False)
    signs: Interval = field(hash=False)
    over_gaussian: Interval = field(hash=False)
    over_signs: Interval = field(hash=False)

    @property
    def beats_noise(self) -> bool:
        """True if protection raises the loss, and by more than both kinds of noise, beyond the intervals."""
        return min(self.protected.low, self.over_gaussian.low, self.over_signs.low) > 0


def measure_look(task: LookTask) -> PerceptualDistances | str:
    """Returns the perceptual distances of published photos from their originals, or one sentence that says why not."""
    if importlib.util.find_spec("torch") is None:
        return "No perceptual distance was measured: the worker has no torch"
    from rid.training.evaluation.judges.perceptual import PerceptualMissing, perceptual_distances

    try:
        return perceptual_distances((pair.clean, pair.protected) for pair in task.pairs())
    except PerceptualMissing as missing:
        return f"No perceptual distance was measured: {missing}"


def measure_protection(task: MeasureTask) -> ModelEffect | str:
    """Returns what was measured, or one sentence that says why nothing was measured."""
    if importlib.util.find_spec("torch") is None:
        return "not measured: the worker has no torch; install the extra [train] there"
    from rid.training.evaluation.effect.protection_effect import protection_effect

    (model,) = load_models([task.source])
    side = model.native_resolution
    clean, protected = [], []
    for pair in task.pairs():
        clean.append(centre_square(pair.clean, side))
        protected.append(centre_square(pair.protected, side))
    if len(clean) < 2:
        return f"not measured: an interval needs two protected photos whose originals can be read, found {len(clean)}"
    losses = protection_effect(model, np.stack(clean), np.stack(protected), draws=task.draws, seed=task.seed)
    return ModelEffect(
        model=task.source.name,
        photos=len(clean),
        clean=bootstrap_mean(losses.clean, seed=task.seed),
        protected=bootstrap_mean(losses.protected - losses.clean, seed=task.seed),
        gaussian=bootstrap_mean(losses.gaussian - losses.clean, seed=task.seed),
        signs=bootstrap_mean(losses.signs - losses.clean, seed=task.seed),
        over_gaussian=bootstrap_mean(losses.protected - losses.gaussian, seed=task.seed),
        over_signs=bootstrap_mean(losses.protected - losses.signs, seed=task.seed),
    )

"""Anatomy of a perturbation: diffusion loss by time step, and spectrum, beside noise of equal norm (RID, analysis).

RID's figure: its perturbation and a teacher's raise the frozen model's loss, Gaussian noise of the same norm does not;
and they differ in where their power lies. One person's photos are analysed at a time, and all versions of a photo
see the same time steps and noise.

K bins of time steps, N photos, R frequencies, M photos of all people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.models.networks import Network
from rid.training.evaluation.cells import Cell
from rid.training.evaluation.effect.controls import norm
from rid.training.evaluation.effect.diffusion_loss import diffusion_losses_by_time
from rid.training.evaluation.effect.power_spectrum import radial_power_spectrum
from rid.training.evaluation.effect.protected_photos import protect_photos
from rid.training.evaluation.statistics import Interval, bootstrap_mean


@dataclass(frozen=True)
class AnalysisConfig:
    """The extent of an analysis; the defaults take about 15 CPU-seconds a person with two teachers.

    Attributes:
        photos: of a person, the first ones.
        bins: K equal shares of the time steps.
        draws: time steps a photo and bin.
        seed: of time steps and noise, far from those of trainings.
    """

    photos: int = 4
    bins: int = 10
    draws: int = 2
    seed: int = 4_711

    def digest(self) -> str:
        """sha256 of the configuration."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Analysed:
    """One version of the photos.

    Attributes:
        cell: what was done to them.
        losses: over photos, in each of K bins.
        raised: the difference from the clean photos' loss, likewise; for clean photos None.
        raised_overall: the same over all time steps.
        spectrum: mean power over photos at 1..R cycles a side, in squared levels; for clean photos None.
        norm: mean L2 norm of a photo's perturbation, in levels.
    """

    cell: Cell
    losses: Sequence[Interval]
    raised: Sequence[Interval] | None
    raised_overall: Interval | None
    spectrum: Sequence[Interval] | None
    norm: float

    @property
    def peak(self) -> int:
        """The frequency of the highest mean power, in cycles a side; 0 for clean photos."""
        return 1 + int(np.argmax([one.mean for one in self.spectrum])) if self.spectrum else 0


@dataclass(frozen=True)
class Analysis:
    """All versions of the same photos.

    Attributes:
        photos: M.
        times: the middle of each bin of time steps, as a share of T.
        versions: the clean photos first.
    """

    photos: int
    times: Sequence[float]
    versions: Sequence[Analysed]


def analyse_photos(
    cells: Sequence[Cell],
    clean: NDArray[np.uint8],
    model: FrozenDiffusion,
    defender_of: Callable[[str], Network],
    config: AnalysisConfig,
    *,
    seed: int,
    teacher_seed: int,
) -> dict[str, Any]:
    """Analyses one person's photos.

    Args:
        cells: versions of the photos, without transformations.
        clean: (N, S, S, 3) photos at the model's resolution.
        model: whose loss is taken, and whom teachers attack.
        defender_of: returns a defender by name.
        config: how much is looked at.
        seed: of the noise control.
        teacher_seed: of teachers.

    Returns:
        By cell key: `losses` (K, N), and for what is not clean `spectra` (N, R) and `norms` (N), as lists.
    """
    found: dict[str, Any] = {}
    for cell in cells:
        photos = protect_photos(cell, clean, model, defender_of, seed=seed, teacher_seed=teacher_seed)
        losses = diffusion_losses_by_time(model, photos, draws=config.bins * config.draws, seed=config.seed)
        binned = losses.reshape(config.bins, config.draws, len(photos)).mean(axis=1)  # (K, N)
        changes = photos.astype(np.int16) - clean
        found[cell.key] = {
            "losses": binned.tolist(),
            "spectra": radial_power_spectrum(changes).tolist(),
            "norms": [norm(change) for change in changes],
        }
    return found


def summarise_analysis(cells: Sequence[Cell], people: Sequence[Mapping[str, Any]]) -> Analysis:
    """Joins what `analyse_photos` found of each person; intervals are over photos.

    Args:
        cells: those that were analysed, the clean one first.
        people: what was found, at least two photos in all.
    """
    clean = _losses(cells[0], people)  # (K, M)
    versions = []
    for cell in cells:
        losses = _losses(cell, people)
        changed = cell != cells[0]
        spectra = np.concatenate([np.array(person[cell.key]["spectra"]) for person in people])  # (M, R)
        versions.append(
            Analysed(
                cell,
                _intervals(losses),
                _intervals(losses - clean) if changed else None,
                bootstrap_mean((losses - clean).mean(axis=0)) if changed else None,
                _intervals(spectra.T) if changed else None,
                float(np.mean([size for person in people for size in person[cell.key]["norms"]])),
            )
        )
    bins = len(clean)
    return Analysis(clean.shape[1], [(index + 0.5) / bins for index in range(bins)], versions)


def _losses(cell: Cell, people: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.concatenate([np.array(person[cell.key]["losses"]) for person in people], axis=1)


def _intervals(rows: NDArray[np.float64]) -> list[Interval]:
    """One interval a row, over its columns."""
    return [bootstrap_mean(row, resamples=2_000) for row in rows]

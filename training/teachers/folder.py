"""Perturbations of photos in memory, kept in a local folder: what `python -m rid.training` uses.

M photos, S side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.config import canonical_digest
from rid.training.photo_set import in_share
from rid.training.teachers.checkpoint import CheckpointFile
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.methods import perturb_units
from rid.training.teachers.pgd import Progress
from rid.training.teachers.units import Unit, person_units, run_name

TASK_PHOTOS = 16


@dataclass(frozen=True)
class Part:
    """One of several processes that share the work."""

    index: int = 0
    count: int = 1


WHOLE = Part()


def choose_units(
    digests: Sequence[str],
    pixels: NDArray[np.uint8],
    people: Sequence[str] | None,
    *,
    share: float,
    seed: int,
    set_size: int,
    largest: int | None = None,
) -> list[Unit]:
    """Returns the seeded share of the photos, or of the people, as units.

    Args:
        digests: of the photos.
        pixels: (M, S, S, 3) uint8 photos.
        people: who is on each photo, for a set-wise method.
        share: of photos or people.
        seed: of the share.
        set_size: photos a set may have.
        largest: number of photos at which no unit is added any more.
    """
    if people is None:
        named = dict(zip(digests, pixels, strict=True))
        units = [Unit((digest,)) for digest, photo in named.items() if in_share(photo.tobytes(), share, seed)]
    else:
        sets: dict[str, list[str]] = {}
        for digest, person in zip(digests, people, strict=True):
            if in_share(person.encode(), share, seed):
                sets.setdefault(person, []).append(digest)
        units = list(dict.fromkeys(person_units(sets, set_size)))
    sizes = np.cumsum([len(unit.photos) for unit in units])
    return [unit for unit, size in zip(units, sizes, strict=True) if largest is None or size <= largest]


def precompute_in_folder(
    units: Sequence[Unit],
    photos: Mapping[str, NDArray[np.uint8]],
    models: Sequence[FrozenDiffusion],
    config: TeacherConfig,
    folder: Path,
    *,
    part: Part = WHOLE,
) -> Path:
    """Perturbs what the folder lacks and returns where the files lie, one a unit, named by its address.

    Args:
        units: all of them.
        photos: (S, S, 3) uint8 photos by digest.
        models: frozen models, conditioned on `config.text`.
        config: the teacher.
        folder: of all teachers.
        part: which process this is; together they do everything.
    """
    own = folder / canonical_digest([config.to_json(), [model.name for model in models]])[:16]
    own.mkdir(parents=True, exist_ok=True)
    largest = 1 if config.set_wise else TASK_PHOTOS
    batches = [units[start : start + largest] for start in range(0, len(units), largest)]
    mine = batches[part.index :: part.count]
    total = config.steps * len(mine)
    with tqdm(total=total, desc=f"teacher {config.method}", unit="step", disable=part.index > 0) as progress:
        for done, batch in enumerate(mine):
            _perturb_batch(batch, photos, models, config, own, progress)
            progress.update((done + 1) * config.steps - progress.n)
    return own


def read_perturbations(folder: Path, units: Sequence[Unit]) -> dict[str, NDArray[np.int8]]:
    """Returns (S, S, 3) int8 levels by photo digest; a photo of several sets has the last one's."""
    return {
        digest: levels
        for unit in units
        for digest, levels in zip(unit.photos, np.load(folder / f"{unit.address}.npy"), strict=True)
    }


def _perturb_batch(
    batch: Sequence[Unit],
    photos: Mapping[str, NDArray[np.uint8]],
    models: Sequence[FrozenDiffusion],
    config: TeacherConfig,
    folder: Path,
    progress: Any,
) -> None:
    missing = [unit for unit in batch if not (folder / f"{unit.address}.npy").is_file()]
    if not missing:
        return
    checkpoint = CheckpointFile(folder / f"{run_name(missing)}.checkpoint")
    first = progress.n

    def on_step(step: Progress) -> None:
        progress.update(first + step.step - progress.n)
        progress.set_postfix(objective=f"{step.objective:.4f}")

    made = perturb_units(missing, photos.__getitem__, models, config, checkpoint=checkpoint, on_step=on_step)
    for address, levels in made.items():
        temporary = folder / f"{address}.writing.npy"
        np.save(temporary, levels)
        temporary.replace(folder / f"{address}.npy")
    checkpoint.delete()

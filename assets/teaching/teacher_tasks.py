"""Perturbation of a batch of photos, on workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rid.assets.frozen.diffusion_models import load_models
from rid.assets.teaching.teacher_cache import StoredCheckpoint, TeacherCache
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit, run_name

if TYPE_CHECKING:
    from rid.models.frozen_diffusion import FrozenDiffusion
    from rid.training.teachers.config import TeacherConfig
    from rid.training.teachers.pgd import Progress


@dataclass(frozen=True)
class TeacherTask:
    """Units to perturb in one go.

    Attributes:
        folder: of the teacher's cache, which holds the units' photos.
        units: photos of their own, or one person's set.
        teacher: the teacher.
        models: the frozen models.
        device: "auto", "cpu" or "cuda".
    """

    folder: Storage
    units: tuple[Unit, ...]
    teacher: TeacherConfig
    models: tuple[DiffusionSource, ...]
    device: str = "auto"

    def load_models(self) -> list[FrozenDiffusion]:
        """Returns the models, conditioned on the teacher's text."""
        return load_models(self.models, prompt=self.teacher.text, device=self.device)


def precompute_batch(
    task: TeacherTask,
    *,
    models: Sequence[FrozenDiffusion] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> int:
    """Perturbs the units that lack perturbations and returns how many photos that were.

    It goes on from the checkpoint of a task over the same units that was killed, on whichever worker.

    Args:
        task: the units.
        models: those of the task, where the caller has loaded them.
        on_step: called after each ascent step.
    """
    cache = TeacherCache(task.folder)
    missing = [unit for unit in task.units if not cache.has(unit)]
    if not missing:
        return 0
    from rid.training.teachers.methods import perturb_units

    if models is None:
        models = task.load_models()
    checkpoint = StoredCheckpoint(cache.storage, run_name(missing))
    made = perturb_units(missing, cache.read_photo, models, task.teacher, checkpoint=checkpoint, on_step=on_step)
    for address, levels in made.items():
        cache.write(address, levels)
    checkpoint.delete()
    return sum(len(levels) for levels in made.values())

"""What workers run to perturb a batch of photos. Strings in, a number out."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rid.assets.frozen.diffusion_models import load_models
from rid.assets.teaching.teacher_cache import StoredCheckpoint, TeacherCache
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit, run_name


@dataclass(frozen=True)
class TeacherTask:
    """Units to perturb in one go.

    Attributes:
        folder: of the teacher's cache, which holds the units' photos.
        units_json: the photo digests of each unit.
        teacher_json: the teacher's configuration.
        models_json: the frozen models.
    """

    folder: str
    units_json: str
    teacher_json: str
    models_json: str

    @property
    def units(self) -> list[Unit]:
        """The units."""
        return [Unit(tuple(photos)) for photos in json.loads(self.units_json)]


def precompute_batch(task: TeacherTask) -> int:
    """Perturbs the units that lack perturbations and returns how many photos that were.

    It goes on from the checkpoint of a task over the same units that was killed, on whichever worker.
    """
    cache = TeacherCache(Storage(task.folder))
    missing = [unit for unit in task.units if not cache.has(unit)]
    if not missing:
        return 0
    from rid.models.frozen_diffusion import share_autoencoders
    from rid.training.teachers.config import TeacherConfig
    from rid.training.teachers.methods import perturb_units

    config = TeacherConfig.from_json(json.loads(task.teacher_json))
    models = share_autoencoders(load_models(task.models_json, prompt=config.text))
    checkpoint = StoredCheckpoint(cache.storage, run_name(missing))
    made = perturb_units(missing, cache.read_photo, models, config, checkpoint=checkpoint)
    for address, levels in made.items():
        cache.write(address, levels)
    checkpoint.delete()
    return sum(len(levels) for levels in made.values())

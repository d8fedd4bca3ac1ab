"""Removes what training keeps of a drop's photos: squares, perturbations and unfinished trainings.

None of it says which photo of the drop it came from, and all of the drop's goes. It is made again when it is
needed. A defender that has learned from a photo holds none, and stays.
"""

from __future__ import annotations

import json

from rid.assets.teaching.pair_tasks import PAIRS
from rid.assets.teaching.run_photos import forget_photos
from rid.assets.teaching.training_task import SAMPLES, STATE
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit

EARLIER_PHOTOS = "photos.npz"  # in the folders of runs that an earlier version left unfinished


def forget_training(home: Storage, drop: str) -> int:
    """Removes a drop's part of every teacher's cache and all unfinished trainings; returns the number of files.

    Args:
        home: RID_HOME.
        drop: its name.
    """
    caches = home.child("perturbations")
    deleted = sum(_forget_in_cache(caches.child(name), drop) for name in _folders(caches))
    runs = home.child("training")
    deleted += forget_photos(home, drop)
    for name in _folders(runs):
        run = runs.child(name)
        pairs = [entry.path for entry in run.list_files(PAIRS)]
        deleted += sum(_delete(run, path) for path in (EARLIER_PHOTOS, STATE, SAMPLES, *pairs))
    return deleted


def _forget_in_cache(cache: Storage, drop: str) -> int:
    """Removes what belongs to the drop alone, and what no drop has finished with."""
    files = [entry.path for entry in cache.list_files()]
    indices = {path: _units(cache, path) for path in files if path.startswith("drops/")}
    own = [path for path in indices if path.startswith(f"drops/{drop}/")]
    others = {unit for path, units in indices.items() if path not in own for unit in units}
    kept = {f"perturbations/{unit.address}.npy" for unit in others}
    kept |= {f"photos/{digest}.npy" for unit in others for digest in unit.photos}
    kept |= indices.keys() - set(own)
    return sum(_delete(cache, path) for path in files if path not in kept)


def _units(cache: Storage, index: str) -> set[Unit]:
    return {Unit(tuple(photos)) for photos in json.loads(cache.read_bytes(index))["units"]}


def _delete(storage: Storage, path: str) -> int:
    if not storage.exists(path):
        return 0
    storage.delete(path)
    return 1


def _folders(storage: Storage) -> list[str]:
    return sorted({entry.path.partition("/")[0] for entry in storage.list_files()}) if storage.is_folder() else []

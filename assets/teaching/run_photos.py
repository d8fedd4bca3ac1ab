"""Photos of one training: squares of its drops, and perturbations of some of them, in files that tasks make.

    plan = plan_photos(home, side, {drop: catalog}, perturbed)      # reads catalogs, no photo
    run = home.child("training", digest)                            # `plan.digest()` is part of what names a run
    prepared = plan.prepare(workers, run)                           # makes what is missing; a killed one goes on
    photos = load_photo_set(home, run, folder)                      # where the training runs: a PhotoSet over maps
    release_photos(home, run)                                       # when it is finished: squares of people go

`photos.json` in a run's folder names the squares that it needs, from before the first is cut until it is finished;
squares that no run names are deleted. `pairs/<name>.npy` there are its (m, S, S, 3) int8 perturbations, a file for each
file of squares that has some.

M perturbations of N photos, S side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rid.assets.catalog.plan import DropCatalog
from rid.assets.teaching.array_files import local_files
from rid.assets.teaching.pair_tasks import PAIRS, PairsTask, gather_pairs
from rid.assets.teaching.photo_cache import SQUARES, PhotoCache, SquareShard
from rid.assets.teaching.teacher_cache import TeacherCache
from rid.resources.dask_workers import Workers
from rid.resources.storage import Storage
from rid.training.photo_set import PhotoSet
from rid.training.sharded_array import ShardedArray
from rid.training.teachers.units import Unit

RUN_PHOTOS = "photos.json"  # in a run's folder until it is finished
TRAINING = "training"  # under RID_HOME, the folders of runs


@dataclass(frozen=True)
class Perturbed:
    """The perturbations that a training may learn from.

    Attributes:
        cache: of the teacher.
        units: that have perturbations; a photo of several has the last one's.
        budget: the teacher's, in 8-bit levels.
    """

    cache: TeacherCache
    units: tuple[Unit, ...]
    budget: int


@dataclass(frozen=True)
class Prepared:
    """The amount that a training has to read.

    Attributes:
        photos: squares.
        left_out: rows of the catalogs that could not be decoded.
        perturbations: squares that have one.
    """

    photos: int
    left_out: int
    perturbations: int


@dataclass(frozen=True)
class PhotoPlan:
    """The squares and perturbations of one training.

    Attributes:
        cache: of the squares.
        catalogs: by drop, in order.
        names: of each drop's files of squares, in order.
        perturbed: None learns from no perturbation.
    """

    cache: PhotoCache
    catalogs: Mapping[str, DropCatalog]
    names: Mapping[str, list[str]]
    perturbed: Perturbed | None

    def digest(self) -> str:
        """Returns the sha256 of what decides squares, their order and their perturbations."""
        named: list[Any] = [self.cache.side, list(self.names.values())]
        if self.perturbed is not None:
            cache = self.perturbed.cache.storage.url.rsplit("/", 1)[-1]
            named += [cache, self.perturbed.budget, [unit.photos for unit in self.perturbed.units]]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def prepare(self, workers: Workers, run: Storage, on_cut: Callable[[int], None] = lambda _: None) -> Prepared:
        """Makes the files that are missing, in tasks.

        Args:
            workers: where photos are decoded and perturbations gathered.
            run: the run's folder.
            on_cut: called with the rows of each file of squares that was cut.

        Raises:
            ValueError: if no photo can be decoded, or a perturbation does not fit its photo or its budget.
            InputChanged: if a photo is another one than its catalog says.
            RuntimeError: if workers died; what the others made is kept.
        """
        held: dict[str, Any] = {"side": self.cache.side, "drops": dict(self.names), "pairs": [], "budget": 0}
        _write_once(run, held)
        shards = [shard for catalog in self.catalogs.values() for shard in self.cache.cut(workers, catalog, on_cut)]
        photos, rows = sum(shard.photos for shard in shards), sum(shard.rows for shard in shards)
        if not photos:
            raise ValueError(f"none of {rows} photos can be decoded, so that there is nothing to train on")
        pairs = self._gather(workers, run, shards)
        held |= {"pairs": pairs, "budget": self.perturbed.budget if self.perturbed is not None and pairs else 0}
        _write_once(run, held)
        return Prepared(photos, rows - photos, sum(len(rows) for _, _, rows in pairs))

    def _gather(self, workers: Workers, run: Storage, shards: list[SquareShard]) -> list[tuple[int, str, list[int]]]:
        """Gathers perturbations beside their squares; returns place of the squares' file, name, and places in it."""
        if self.perturbed is None:
            return []
        pairs: list[tuple[int, str, list[int]]] = []
        there = {entry.path for entry in run.list_files(PAIRS)} if run.is_folder() else set()
        planned = self._pairs_tasks(run, shards, pairs)
        missing = (task for task in planned if f"{PAIRS}/{task.name}.npy" not in there)
        died = sum(
            done.result is None for done in workers.run(gather_pairs, missing, prefix="pairs", expected=len(shards))
        )
        if died:
            raise RuntimeError(f"{died} workers died while they gathered perturbations: give workers more memory")
        return pairs

    def _pairs_tasks(
        self, run: Storage, shards: list[SquareShard], pairs: list[tuple[int, str, list[int]]]
    ) -> Iterator[PairsTask]:
        """Yields a task for each file of squares that has perturbations, and notes it in `pairs`."""
        assert self.perturbed is not None
        cache = self.perturbed.cache.storage
        where = {
            digest: (unit.address, place) for unit in self.perturbed.units for place, digest in enumerate(unit.photos)
        }
        made = set()
        for place, shard in enumerate(shards):
            digests = self.cache.index(shard.name).digests if shard.photos else []
            wanted = [(row, *where[digest]) for row, digest in enumerate(digests) if digest in where]
            if not wanted:
                continue
            named = tuple((address, position) for _, address, position in wanted)
            task = PairsTask(run, cache, self.cache.side, self.perturbed.budget, named)
            pairs.append((place, task.name, [row for row, _, _ in wanted]))
            if task.name not in made:
                made.add(task.name)
                yield task


def plan_photos(
    home: Storage, side: int, catalogs: Mapping[str, DropCatalog], perturbed: Perturbed | None = None
) -> PhotoPlan:
    """Names the files that a training reads; no photo is read.

    Args:
        home: RID_HOME.
        side: of the squares.
        catalogs: of the drops, in the order they are read.
        perturbed: the perturbations to learn from.
    """
    cache = PhotoCache(home, side)
    names = {drop: [task.name for task in cache.tasks(catalog)] for drop, catalog in catalogs.items()}
    return PhotoPlan(cache, dict(catalogs), names, perturbed)


def load_photo_set(home: Storage, run: Storage, folder: Path) -> PhotoSet:
    """Returns what a prepared run reads.

    Args:
        home: RID_HOME.
        run: the run's folder.
        folder: gets copies of what does not lie on a disk of this machine: 3 S S bytes a photo.

    Raises:
        ValueError: if a file is missing, torn or of another shape.
    """
    held = json.loads(run.read_bytes(RUN_PHOTOS))
    side = int(held["side"])
    names = [name for drop in held["drops"].values() for name in drop]
    pixels = PhotoCache(home, side).open(names, folder / "squares")
    starts = np.concatenate([[0], np.cumsum(pixels.counts())]).astype(np.int64)
    index = [starts[place] + np.array(rows, np.int64) for place, _, rows in held["pairs"]]
    files = local_files(run, [f"{PAIRS}/{name}.npy" for _, name, _ in held["pairs"]], folder)
    teacher = ShardedArray(files, (side, side, 3), np.int8)
    return PhotoSet(pixels, np.concatenate([*index, np.zeros(0, np.int64)]), teacher, int(held["budget"]))


def release_photos(home: Storage, run: Storage) -> int:
    """Deletes a finished run's perturbations, and its squares unless another run needs them; returns files deleted.

    A run that is planned at this moment may miss a square: it is told to run again.
    """
    deleted = sum(run.discard(entry.path) for entry in list(run.list_files(PAIRS)))
    if not run.exists(RUN_PHOTOS):
        return deleted
    held = json.loads(run.read_bytes(RUN_PHOTOS))
    run.discard(RUN_PHOTOS)
    needed = {(side, name) for side, _, name in _named(home)}
    own = dict.fromkeys(name for drop in held["drops"].values() for name in drop)
    unneeded = [name for name in own if (held["side"], name) not in needed]
    return deleted + 1 + PhotoCache(home, held["side"]).delete(unneeded)


def forget_photos(home: Storage, drop: str) -> int:
    """Deletes the squares of a drop, and those no run needs; returns files deleted.

    Runs that read the drop are no longer prepared; what they share with it is cut again when they are. Squares that a
    run over other drops needs stay: those drops have these photos as well.
    """
    deleted = 0
    training = home.child(TRAINING)
    for name in _runs(training):
        run = training.child(name)
        if run.exists(RUN_PHOTOS) and drop in json.loads(run.read_bytes(RUN_PHOTOS))["drops"]:
            deleted += run.discard(RUN_PHOTOS)
    needed = {f"{side}/{name}" for side, _, name in _named(home)}
    squares = home.child(*SQUARES.split("/"))
    for entry in list(squares.list_files()) if squares.is_folder() else []:
        if entry.path.rpartition(".")[0] not in needed:
            deleted += squares.discard(entry.path)
    return deleted


def _named(home: Storage) -> Iterator[tuple[int, str, str]]:
    """Yields side, drop and name of every file of squares that a run needs."""
    training = home.child(TRAINING)
    for name in _runs(training):
        if training.exists(f"{name}/{RUN_PHOTOS}"):
            held = json.loads(training.read_bytes(f"{name}/{RUN_PHOTOS}"))
            yield from ((held["side"], drop, one) for drop, names in held["drops"].items() for one in names)


def _runs(training: Storage) -> list[str]:
    found = (entry.path for entry in training.list_files()) if training.is_folder() else iter(())
    return sorted({path.partition("/")[0] for path in found if path.endswith(f"/{RUN_PHOTOS}")})


def _write_once(run: Storage, held: dict[str, Any]) -> None:
    """Writes `photos.json` unless it says so already."""
    text = json.dumps(held).encode()
    if not run.exists(RUN_PHOTOS) or run.read_bytes(RUN_PHOTOS) != text:
        run.write_bytes(RUN_PHOTOS, text)

"""The perturbations of a drop by one teacher: what is missing is made in tasks, the rest is found.

The asset `teacher_perturbations` and `rid train` are both this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rid.assets.catalog.plan import DropCatalog
from rid.assets.teaching.progress import Progress, Report, silent
from rid.assets.teaching.run_photos import TRAINING, Perturbed, plan_photos, release_photos
from rid.assets.teaching.teacher_cache import DropIndex, Selection, TeacherCache
from rid.assets.teaching.teacher_tasks import TeacherTask, precompute_batch
from rid.assets.teaching.teacher_units import CutDrop, UnitPlan
from rid.resources.dask_workers import Workers
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit

if TYPE_CHECKING:
    from rid.models.frozen_diffusion import FrozenDiffusion
    from rid.training.teachers.config import TeacherConfig
    from rid.training.teachers.pgd import Progress as AscentProgress

TASK_PHOTOS = 16
PERTURBATIONS = "perturbations"  # under RID_HOME


@dataclass(frozen=True)
class TeacherRequest:
    """Which perturbations.

    Attributes:
        home: RID_HOME, or the folder that stands for it.
        teacher: the method and its numbers.
        models: the frozen models that it attacks.
        side: of the squares.
        selection: which photos get a perturbation, and together with which.
        device: "auto", "cpu" or "cuda".
    """

    home: Storage
    teacher: TeacherConfig
    models: tuple[DiffusionSource, ...]
    side: int
    selection: Selection
    device: str = "auto"

    def digest(self) -> str:
        """Returns the sha256 of the teacher, of the files of every model, and of the side."""
        fields = [self.teacher.to_json(), [model.digest() for model in self.models], self.side]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def cache(self) -> TeacherCache:
        """Returns what this teacher made on these models, whatever the drop."""
        return TeacherCache(self.home.child(PERTURBATIONS, self.digest()[:32]))

    def perturbed(self, indices: list[DropIndex]) -> Perturbed:
        """Returns what a training over some drops learns from."""
        units = tuple(unit for index in indices for unit in index.units)
        return Perturbed(self.cache(), units, self.teacher.budget_levels)


def finished_index(request: TeacherRequest, drop: str, catalog: DropCatalog) -> DropIndex | None:
    """Returns what a drop has if every unit of its present catalog has perturbations, else None."""
    cache = request.cache()
    index = cache.read_index(drop, request.selection)
    if index is None or index.catalog != _catalog_name(catalog):
        return None
    there = cache.addresses()
    return index if all(unit.address in there for unit in index.units) else None


def perturb_drop(
    request: TeacherRequest,
    drop: str,
    catalog: DropCatalog,
    workers: Workers,
    *,
    photo_workers: Workers | None = None,
    report: Report = silent,
) -> tuple[DropIndex, int]:
    """Perturbs what is missing; returns what the drop has, and how many photos were perturbed in this run.

    A finished drop's photos are not even read.

    Args:
        request: which perturbations.
        drop: its name.
        catalog: of the drop.
        workers: where teachers run.
        photo_workers: where photos are decoded; the same if None.
        report: called as photos are perturbed.

    Raises:
        ValueError: if no photo can be decoded, or photos cannot be told apart by person.
        RuntimeError: if workers died; what they had finished is kept.
    """
    index = finished_index(request, drop, catalog)
    if index is not None:
        return index, 0
    cache = request.cache()
    held = request.home.child(TRAINING, f"teacher-{request.digest()[:16]}-{drop}")
    photos = plan_photos(request.home, request.side, {drop: catalog})
    prepared = photos.prepare(photo_workers or workers, held)
    shards = photos.cache.cut(photo_workers or workers, catalog)
    run = _DropRun(request, cache, workers, report)
    units = run.perturb(UnitPlan(CutDrop(photos.cache, catalog, shards), request.selection, cache), prepared.photos)
    index = DropIndex(_catalog_name(catalog), prepared.photos, units)
    cache.write_index(drop, request.selection, index)
    release_photos(request.home, held)
    return index, run.photos_done


@dataclass
class _DropRun:
    """The perturbations of one drop, under way.

    Attributes:
        units: selected so far.
        photos_done: photos perturbed by this run.
    """

    request: TeacherRequest
    cache: TeacherCache
    workers: Workers
    report: Report
    units: list[Unit] = field(default_factory=list)
    photos_done: int = 0

    def perturb(self, plan: UnitPlan, photos: int) -> tuple[Unit, ...]:
        """Runs the tasks of what is missing and returns all units of the plan."""
        selection = self.request.selection
        expected = max(1, round(photos * selection.share))
        expected = min(expected, selection.largest) if selection.largest is not None else expected
        died = 0
        tasks = self._tasks(plan.units(), self.cache.addresses())
        function = precompute_batch if self.workers.separate else self._precompute_here(expected)
        count = max(1, round(expected / TASK_PHOTOS))
        for done in self.workers.run(function, tasks, prefix="teacher", expected=count, gpu=True):
            if done.result is None:
                died += 1
                continue
            self.photos_done += done.result
            self._say(self.photos_done, expected, "")
        if died:
            raise RuntimeError(
                f"{died} workers died while they precomputed perturbations; the others' are kept, and another run goes "
                "on from the last checkpoints: give workers more memory, or the teacher a smaller batch"
            )
        return tuple(self.units)

    def _precompute_here(self, expected: int) -> Callable[[TeacherTask], int]:
        """Returns what runs tasks in this process: models are loaded once, each step is told."""
        models: list[FrozenDiffusion] = []

        def run(task: TeacherTask) -> int:
            if not models:
                models.extend(task.load_models())
            photos = sum(len(unit.photos) for unit in task.units)

            def on_step(step: AscentProgress) -> None:
                done = self.photos_done + photos * step.step // step.steps
                self._say(done, expected, f"objective {step.objective:.4f}")

            return precompute_batch(task, models=models, on_step=on_step)

        return run

    def _say(self, done: int, expected: int, note: str) -> None:
        self.report(Progress(f"teacher {self.request.teacher.method}", done, max(done, expected), note=note))

    def _tasks(self, units: Iterator[Unit], there: set[str]) -> Iterator[TeacherTask]:
        """Yields tasks while units are selected: batches of photos, or single sets."""
        largest = 1 if self.request.teacher.set_wise else TASK_PHOTOS
        batch: list[Unit] = []
        for unit in units:
            self.units.append(unit)
            if unit.address not in there:
                batch.append(unit)
            if len(batch) == largest:
                yield self._task(batch)
                batch = []
        if batch:
            yield self._task(batch)

    def _task(self, units: list[Unit]) -> TeacherTask:
        request = self.request
        return TeacherTask(self.cache.storage, tuple(units), request.teacher, request.models, request.device)


def _catalog_name(catalog: DropCatalog) -> str:
    return catalog.url.rsplit("/", 1)[-1]

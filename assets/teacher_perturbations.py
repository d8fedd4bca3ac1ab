"""Optimisation-based perturbations of a seeded share of the drop's photos, in a content-addressed cache."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from rid.assets.catalog.plan import state_storage
from rid.assets.catalog.squares import current_catalog
from rid.assets.frozen.diffusion_models import models_to_json
from rid.assets.operations import GPU_POOL, RETRIES, TRAINING_OWNERS, mistakes_are_final
from rid.assets.partitions import drops
from rid.assets.photo_catalog import PHOTO_CATALOG
from rid.assets.teaching.teacher_cache import DropIndex, Selection, TeacherCache
from rid.assets.teaching.teacher_tasks import TeacherTask, precompute_batch
from rid.assets.teaching.teacher_units import UnitPlan
from rid.assets.training_config import TeacherRunConfig, frozen_models
from rid.resources.dask_cluster import DaskCluster
from rid.resources.dask_workers import Workers
from rid.resources.places import Places
from rid.resources.storage import Storage
from rid.training.teachers.options import SET_WISE
from rid.training.teachers.units import Unit

TASK_PHOTOS = 16
DROPS_PER_RUN = 16


def teacher_cache(config: TeacherRunConfig, places: Places) -> TeacherCache:
    """The perturbations of one teacher on one set of models, whatever the drop."""
    models = [model.digest() for model in frozen_models(config.models, places)]
    fields = [json.loads(teacher_json(config)), models, config.working_resolution]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return TeacherCache(Storage(places.home).child("perturbations", digest[:32]))


def teacher_json(config: TeacherRunConfig) -> str:
    """The teacher's own configuration, complete, as tasks carry it.

    Raises:
        ValueError: if the method or an option is unknown, or a number is out of range.
    """
    from rid.training.teachers.config import TeacherConfig

    given = {
        "method": config.method,
        "budget_levels": config.budget_levels,
        "steps": config.steps,
        "step_levels": config.step_levels,
        "momentum": config.momentum,
        "batch": config.batch,
        "prompt": config.prompt,
        "seed": config.seed,
        "options": config.method_options,
    }
    return json.dumps(TeacherConfig.from_json(given).to_json(), sort_keys=True)


def teacher_selection(config: TeacherRunConfig) -> Selection:
    """Which photos the teacher gets; how people are told apart matters only to a method that learns people."""
    set_wise = config.method in SET_WISE
    set_by, set_size = (config.set_by, config.set_size) if set_wise else ("", 1)
    return Selection(config.share, config.seed, set_by, set_size)


@asset(
    deps=[PHOTO_CATALOG],
    partitions_def=drops,
    # Not the policy of photo_catalog: with the same one, a backfill of both would be one run, in which this step
    # would be skipped, since a run over many drops yields no output for photo_catalog.
    backfill_policy=BackfillPolicy.multi_run(DROPS_PER_RUN),
    retry_policy=RETRIES,
    pool=GPU_POOL,
    owners=TRAINING_OWNERS,
    group_name="training",
    kinds={"torch", "dask"},
    description=__doc__,
)
def teacher_perturbations(
    context: AssetExecutionContext, config: TeacherRunConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Precomputes what is missing: a batch of photos a task, or a person's set a task where the method learns people.

    The same photo, teacher and models are never worked on twice. A killed run goes on from its checkpoints.
    """
    computed = 0
    with mistakes_are_final(), dask.connect() as workers:
        cache = teacher_cache(config, places)
        for drop in context.partition_keys:
            run = DropRun(context, drop, config, places, cache)
            index = run.perturb(workers)
            computed += run.photos_done
            metadata = {
                "photos": index.photos,
                "perturbations": index.perturbations,
                "units": len(index.units),
                "perturbations computed": run.photos_done,
            }
            context.add_asset_metadata(metadata, partition_key=drop)
    return MaterializeResult(metadata={"perturbations computed": computed, "folder": cache.storage.url})


@dataclass
class DropRun:
    """The perturbations of one drop, under way.

    Attributes:
        units: selected so far.
        photos_done: photos perturbed by this run.
    """

    context: AssetExecutionContext
    drop: str
    config: TeacherRunConfig
    places: Places
    cache: TeacherCache
    units: list[Unit] = field(default_factory=list)
    photos_done: int = 0

    def perturb(self, workers: Workers) -> DropIndex:
        """Perturbs what is missing and returns what the drop has; a finished drop's photos are not even read.

        Raises:
            ValueError: if the drop has no catalog, or its photos cannot be told apart by person.
            RuntimeError: if workers died; what they had finished is kept.
        """
        catalog = current_catalog(state_storage(self.places.protected_table().storage), self.drop)
        selection, there = teacher_selection(self.config), self.cache.addresses()
        name = catalog.url.rsplit("/", 1)[-1]
        index = self.cache.read_index(self.drop, selection)
        if index is not None and index.catalog == name and all(unit.address in there for unit in index.units):
            return index
        plan = UnitPlan(catalog, self.config.working_resolution, selection, self.cache)
        self._run(workers, self._tasks(plan.units(), there), expected=self._expected(catalog.photos))
        index = DropIndex(name, plan.photos, tuple(self.units))
        self.cache.write_index(self.drop, selection, index)
        return index

    def _tasks(self, units: Iterator[Unit], there: set[str]) -> Iterator[TeacherTask]:
        """Yields tasks while the photos are read: batches of photos, or single sets."""
        teacher, models = teacher_json(self.config), models_to_json(frozen_models(self.config.models, self.places))
        largest = 1 if self.config.method in SET_WISE else TASK_PHOTOS
        batch: list[Unit] = []

        def task() -> TeacherTask:
            photos = json.dumps([unit.photos for unit in batch])
            return TeacherTask(self.cache.storage.url, photos, teacher, models)

        for unit in units:
            self.units.append(unit)
            if unit.address not in there:
                batch.append(unit)
            if len(batch) == largest:
                yield task()
                batch = []
        if batch:
            yield task()

    def _run(self, workers: Workers, tasks: Iterator[TeacherTask], expected: int) -> None:
        began, died = time.monotonic(), 0
        for done in workers.run(precompute_batch, tasks, prefix="teacher", expected=expected, gpu=True):
            if done.result is None:
                died += 1
                continue
            self.photos_done += done.result
            seconds = (time.monotonic() - began) / max(1, self.photos_done)
            self.context.log.info(
                f"{self.drop}: {self.photos_done} photos perturbed by {self.config.method}, {seconds:.1f} s each"
            )
        if died:
            raise RuntimeError(
                f"{died} workers died while they precomputed perturbations; the others' are kept, and another run goes "
                "on from the last checkpoints: give workers more memory, or the teacher a smaller batch"
            )

    def _expected(self, photos: int) -> int:
        """About how many tasks there will be, so that no idle worker is started."""
        return max(1, round(photos * self.config.share / TASK_PHOTOS))

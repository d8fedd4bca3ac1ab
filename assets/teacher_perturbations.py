"""Optimisation-based perturbations of a seeded share of the drop's photos, in a content-addressed cache."""

import hashlib
import json

import numpy as np
from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from assets.drop_plan import state_url
from assets.partitions import drops
from assets.photo_catalog import photo_catalog
from assets.training_config import TeacherRunConfig, frozen_models
from assets.training_photos import training_squares
from assets.training_tasks import TeacherTask, models_to_json, precompute_batch, store_array
from resources.dask_cluster import DaskCluster
from resources.places import Places
from resources.storage import Storage
from training.photo_set import seeded_share

BATCH = 16


def teacher_folder(config: TeacherRunConfig, places: Places) -> Storage:
    """Where the perturbations of one teacher on one set of models lie, whatever the drop."""
    models = [model.digest() for model in frozen_models(config.models, places)]
    fields = [teacher_json(config), models, config.working_resolution]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return Storage(places.home).child("perturbations", digest[:32])


def teacher_json(config: TeacherRunConfig) -> str:
    """The teacher's own configuration, as tasks carry it."""
    from training.teachers.config import TeacherConfig

    teacher = TeacherConfig(
        method=config.method, budget_levels=config.budget_levels, steps=config.steps, seed=config.seed
    )
    return json.dumps(teacher.to_json(), sort_keys=True)


@asset(
    deps=[photo_catalog],
    partitions_def=drops,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="training",
    kinds={"torch", "dask"},
    description=__doc__,
)
def teacher_perturbations(
    context: AssetExecutionContext, config: TeacherRunConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Precomputes what is missing, a batch of photos a task; the same photos and teacher are never done twice."""
    storage = teacher_folder(config, places)
    models = models_to_json(frozen_models(config.models, places))
    state = state_url(places.protected_table())
    there = {entry.path for entry in storage.list_files()} if storage.is_folder() else set()
    computed = 0
    with dask.connect() as workers:
        for drop in context.partition_keys:
            squares = list(training_squares(state, drop, config.working_resolution))
            chosen = [squares[i] for i in seeded_share(squares, config.share, config.seed)]
            tasks, names = [], []
            for start in range(0, len(chosen), BATCH):
                pixels = np.stack(chosen[start : start + BATCH])
                name = hashlib.sha256(pixels.tobytes()).hexdigest()[:32]
                names.append(name)
                if f"{name}.teacher.npy" not in there:
                    store_array(storage, f"{name}.photos.npy", pixels)
                    tasks.append(TeacherTask(storage.url, name, teacher_json(config), models))
            for done in workers.run(precompute_batch, tasks, prefix="teacher", expected=len(tasks), gpu=True):
                if done.result is None:
                    raise RuntimeError("a worker died while it precomputed perturbations: run again to continue")
                computed += 1
                context.log.info(f"{computed} of {len(tasks)} batches")
            index = storage.child("drops")
            text = json.dumps(names).encode()
            if not index.exists(f"{drop}.json") or index.read_bytes(f"{drop}.json") != text:
                index.write_bytes(f"{drop}.json", text)
            context.add_asset_metadata(
                {"photos": len(squares), "perturbations": len(chosen), "batches computed": len(tasks)},
                partition_key=drop,
            )
    return MaterializeResult(metadata={"batches computed": computed, "folder": storage.url})

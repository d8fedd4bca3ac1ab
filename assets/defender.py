"""A defender, trained by Adv-SDS and regression on a configured list of drops, and registered as a candidate."""

import hashlib
import io
import json
from typing import Any

import numpy as np
from dagster import AssetExecutionContext, MaterializeResult, asset

from rid.assets.catalog.plan import state_storage
from rid.assets.catalog.squares import training_squares
from rid.assets.frozen.diffusion_models import models_to_json
from rid.assets.operations import GPU_POOL, RETRIES, TRAINING_OWNERS, mistakes_are_final
from rid.assets.reports.pictures import losses_picture
from rid.assets.shown_pictures import inline_picture
from rid.assets.teacher_perturbations import teacher_cache, teacher_perturbations, teacher_selection
from rid.assets.teaching.training_run import FINISHED, PHOTOS, SAMPLES, TrainingTask, train
from rid.assets.training_config import DefenderRunConfig, frozen_models
from rid.resources.dask_cluster import DaskCluster
from rid.resources.dask_workers import Workers
from rid.resources.places import Places
from rid.resources.storage import Storage
from rid.training.teachers.units import photo_digest

TRAINING_SECONDS = 30 * 86400.0  # the longest training that is waited for


@asset(
    deps=[teacher_perturbations],
    group_name="training",
    kinds={"torch", "dask"},
    owners=TRAINING_OWNERS,
    pool=GPU_POOL,
    retry_policy=RETRIES,
    description=__doc__,
)
def defender(
    context: AssetExecutionContext, config: DefenderRunConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Trains in one task on a GPU worker if there is one.

    The digest of everything that decides the result names the run: a finished one is found, and one that was killed
    goes on from its last checkpoint.
    """
    with mistakes_are_final(), dask.connect() as workers:
        return MaterializeResult(metadata=train_on(workers, config, places))


def train_on(workers: Workers, config: DefenderRunConfig, places: Places) -> dict[str, Any]:
    """Trains a defender, or finds it, and returns what the asset shows of it.

    Raises:
        ValueError: if the recipe, a drop, its perturbations or a model do not fit.
        RuntimeError: if the worker died; its last checkpoint is kept.
    """
    from rid.training.recipes import recipe

    changes: dict[str, int | float | str] = {"seed": config.seed}
    if config.training_steps is not None:
        changes |= {"steps": config.training_steps}
    run_config = recipe(config.recipe, **changes)
    arrays = training_arrays(config, places, with_teacher=run_config.regression_weight > 0)
    models = frozen_models(config.models, places)
    initial = places.registry().resolve(config.initial) if config.initial else None
    named = [run_config.digest(), [model.digest() for model in models], initial.digest if initial else None]
    digest = hashlib.sha256(json.dumps(named).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    storage = Storage(places.home).child("training", digest.hexdigest()[:32])
    trained = not storage.exists(FINISHED)
    if trained and not storage.exists(PHOTOS):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        storage.write_bytes(PHOTOS, buffer.getvalue())
    task = TrainingTask(
        storage.url,
        json.dumps(run_config.to_json(), sort_keys=True),
        models_to_json(models),
        places.home,
        config.name,
        ",".join(config.drops),
        json.dumps({"location": initial.location, "config": initial.config}) if initial else "",
        config.sample_sheet,
    )
    found = train(task) if not trained else None
    for done in workers.run(
        train, [task] if trained else [], prefix="train", expected=1, gpu=True, longest=TRAINING_SECONDS
    ):
        if done.result is None:
            raise RuntimeError("the worker died while it trained: run again to go on from the last checkpoint")
        found = done.result
    sheet = storage.read_bytes(SAMPLES) if config.sample_sheet and storage.exists(SAMPLES) else None
    losses = places.registry().resolve(str(found)).config["training"].get("losses")  # None: by an earlier version
    pictures = {"loss": inline_picture("losses", losses_picture(losses, "png"), "png")} if losses else {}
    if sheet:
        pictures["samples"] = inline_picture("clean, protected, amplified change", sheet, "jpeg")
    return {
        "digest": str(found),
        "trained in this run": trained,
        "photos": len(arrays["pixels"]),
        "perturbations": len(arrays["teacher"]),
        **pictures,
    }


def training_arrays(config: DefenderRunConfig, places: Places, *, with_teacher: bool) -> dict[str, np.ndarray]:
    """The photos of the drops and the perturbations of those that have one, as `PhotoSet` holds them."""
    state, cache = state_storage(places.protected_table().storage), teacher_cache(config, places)
    pixels = [square for drop in config.drops for square in training_squares(state, drop, config.working_resolution)]
    place = {photo_digest(square): i for i, square in enumerate(pixels)}
    index, perturbations = [], []
    for drop in config.drops if with_teacher else []:
        made = cache.read_index(drop, teacher_selection(config))
        if made is None:
            raise ValueError(
                f"drop {drop!r} has no perturbations of this teacher, share and seed: materialise "
                "teacher_perturbations with the same configuration first"
            )
        for unit in made.units:
            for digest, perturbation in zip(unit.photos, cache.read(unit), strict=True):
                if digest in place:
                    index.append(place[digest])
                    perturbations.append(perturbation)
    side = config.working_resolution
    return {
        "pixels": np.stack(pixels),
        "teacher_index": np.array(index, np.int64),
        "teacher": np.stack(perturbations) if perturbations else np.zeros((0, side, side, 3), np.int8),
        "teacher_budget": np.array(config.budget_levels if perturbations else 0),
    }

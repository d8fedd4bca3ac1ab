"""A defender, trained by Adv-SDS and regression on a configured list of drops, and registered as a candidate."""

import base64
import hashlib
import io
import json

import numpy as np
from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, asset

from assets.drop_plan import state_url
from assets.operations import GPU_POOL, TRAINING_OWNERS
from assets.teacher_perturbations import teacher_cache, teacher_perturbations, teacher_selection
from assets.training_config import DefenderRunConfig, frozen_models
from assets.training_photos import training_squares
from assets.training_tasks import TrainingTask, models_to_json, train
from resources.dask_cluster import DaskCluster
from resources.places import Places
from resources.storage import Storage
from training.teachers.units import photo_digest


@asset(
    deps=[teacher_perturbations],
    group_name="training",
    kinds={"torch", "dask"},
    owners=TRAINING_OWNERS,
    pool=GPU_POOL,
    description=__doc__,
)
def defender(
    context: AssetExecutionContext, config: DefenderRunConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Trains in one task on a GPU worker if there is one.

    The digest of everything that decides the result names the run: a finished one is found, and one that was killed
    goes on from its last checkpoint.
    """
    from training.recipes import recipe

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
    if not storage.exists("photos.npz"):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        storage.write_bytes("photos.npz", buffer.getvalue())
    trained = not storage.exists("defender.json")
    task = TrainingTask(
        storage.url,
        json.dumps(run_config.to_json(), sort_keys=True),
        models_to_json(models),
        places.home,
        config.name,
        ",".join(config.drops),
        json.dumps({"location": initial.location, "config": initial.config}) if initial else "",
    )
    with dask.connect() as workers:
        found = train(task) if not trained else None
        for done in workers.run(train, [task] if trained else [], prefix="train", expected=1, gpu=True):
            if done.result is None:
                raise RuntimeError("the worker died while it trained: run again to go on from the last checkpoint")
            found = done.result
    return MaterializeResult(
        metadata={
            "digest": str(found),
            "trained in this run": trained,
            "photos": len(arrays["pixels"]),
            "perturbations": len(arrays["teacher"]),
            "loss": MetadataValue.md(loss_curve(storage.read_bytes("log.jsonl"))),
        }
    )


def training_arrays(config: DefenderRunConfig, places: Places, *, with_teacher: bool) -> dict[str, np.ndarray]:
    """The photos of the drops and the perturbations of those that have one, as `PhotoSet` holds them."""
    state, cache = state_url(places.protected_table()), teacher_cache(config, places)
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


def loss_curve(log: bytes) -> str:
    """The losses by step, as a picture in Markdown."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in log.splitlines()]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for name in ("adv_sds", "regression"):
        axes.plot([r["step"] for r in records], [r[name] for r in records], label=name, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("weighted loss")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return f"![losses](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"

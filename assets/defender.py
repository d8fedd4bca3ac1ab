"""A defender, trained by Adv-SDS and regression on a configured list of drops, and registered as a candidate."""

from typing import Any

from dagster import AssetExecutionContext, MaterializeResult, asset

from rid.assets.catalog.plan import state_storage
from rid.assets.catalog.squares import current_catalog
from rid.assets.operations import GPU_POOL, RETRIES, TRAINING_OWNERS, mistakes_are_final
from rid.assets.reports.pictures import losses_picture
from rid.assets.shown_pictures import inline_picture
from rid.assets.teacher_perturbations import teacher_perturbations
from rid.assets.teaching.progress import Progress, Report
from rid.assets.teaching.training_run import TrainingRequest, TrainingWorkers, run_training
from rid.assets.teaching.training_task import SAMPLES, CardText
from rid.assets.training_config import DefenderRunConfig, run_models, run_spaces, teacher_request, training_config
from rid.resources.dask_cluster import DaskCluster
from rid.resources.dask_workers import Workers
from rid.resources.places import Places
from rid.resources.storage import Storage

LOGGED = 100  # messages a training


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
    """Trains in one task on a GPU worker if there is one, in a process for each GPU if that is asked for.

    The digest of everything that decides the result names the run: a finished one is found, and one that was killed
    goes on from its last checkpoint.
    """
    with mistakes_are_final(), dask.connect() as workers:
        return MaterializeResult(metadata=train_on(workers, config, places, _log(context)))


def train_on(workers: Workers, config: DefenderRunConfig, places: Places, report: Report) -> dict[str, Any]:
    """Trains a defender, or finds it, and returns what the asset shows of it.

    Raises:
        ValueError: if the recipe, a drop, its perturbations or a model do not fit.
        RuntimeError: if the worker died; its last checkpoint is kept.
    """
    trained = run_training(training_request(config, places), TrainingWorkers(workers, workers, workers), report)
    sheet = trained.run.read_bytes(SAMPLES) if config.sample_sheet and trained.run.exists(SAMPLES) else None
    # None: by an earlier version
    losses = places.registry().resolve(trained.digest).config["training"].get("losses")
    pictures = {"loss": inline_picture("losses", losses_picture(losses, "png"), "png")} if losses else {}
    if sheet:
        pictures["samples"] = inline_picture("clean, protected, amplified change", sheet, "jpeg")
    return {
        "digest": trained.digest,
        "trained in this run": trained.now,
        "photos": trained.photos,
        "photos that could not be decoded": trained.left_out,
        "perturbations": trained.perturbations,
        **pictures,
    }


def training_request(config: DefenderRunConfig, places: Places) -> TrainingRequest:
    """From the launchpad to a request.

    Raises:
        ValueError: if the recipe, a drop or a model cannot be used.
    """
    run_config, home = training_config(config), Storage(places.home)
    state = state_storage(places.protected_table().storage)
    return TrainingRequest(
        home=home,
        catalogs={drop: current_catalog(state, drop) for drop in config.drops},
        config=run_config,
        models=run_models(config, places) if run_config.uses_models else (),
        spaces=run_spaces(config, places) if run_config.space_weight else (),
        side=config.working_resolution,
        teacher=teacher_request(config, places) if run_config.regression_weight > 0 else None,
        initial=places.registry().resolve(config.initial) if config.initial else None,
        card=CardText(config.name, licence=config.licence, drops=tuple(config.drops)),
        registry=home,
        shown=config.sample_sheet,
        processes=config.processes,
    )


def _log(context: AssetExecutionContext) -> Report:
    """Returns what tells of a training now and then, in so far as this process hears of it."""
    told: dict[str, int] = {}

    def report(progress: Progress) -> None:
        share = progress.done * LOGGED // max(1, progress.total)
        if told.get(progress.stage) != share:
            told[progress.stage] = share
            context.log.info(f"{progress.stage}: {progress.done} of {progress.total} {progress.unit}s {progress.note}")

    return report

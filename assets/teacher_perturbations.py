"""Optimisation-based perturbations of a seeded share of the drop's photos, in a content-addressed cache."""

import time

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from rid.assets.catalog.plan import state_storage
from rid.assets.catalog.squares import current_catalog
from rid.assets.operations import GPU_POOL, RETRIES, TRAINING_OWNERS, mistakes_are_final
from rid.assets.partitions import drops
from rid.assets.photo_catalog import PHOTO_CATALOG
from rid.assets.teaching.progress import Progress, Report
from rid.assets.teaching.teacher_run import perturb_drop
from rid.assets.training_config import TeacherRunConfig, teacher_request
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places

DROPS_PER_RUN = 16


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
        request = teacher_request(config, places)
        for drop in context.partition_keys:
            catalog = current_catalog(state_storage(places.protected_table().storage), drop)
            index, done = perturb_drop(request, drop, catalog, workers, report=_log(context, drop))
            computed += done
            metadata = {
                "photos": index.photos,
                "perturbations": index.perturbations,
                "units": len(index.units),
                "perturbations computed": done,
            }
            context.add_asset_metadata(metadata, partition_key=drop)
    return MaterializeResult(metadata={"perturbations computed": computed, "folder": request.cache().storage.url})


def _log(context: AssetExecutionContext, drop: str) -> Report:
    """Returns what tells of photos that were perturbed, and how long each took."""
    began = time.monotonic()

    def report(progress: Progress) -> None:
        if not progress.note:
            seconds = (time.monotonic() - began) / max(1, progress.done)
            context.log.info(f"{drop}: {progress.stage}: {progress.done} photos, {seconds:.1f} s each")

    return report

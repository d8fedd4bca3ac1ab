"""Every photo of the drop: protected, skipped or quarantined with a reason; one commit a drop."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from assets.drop_plan import read_current
from assets.drop_run import run_drop
from assets.partitions import drops
from assets.photo_catalog import photo_catalog
from assets.requests import ProtectionConfig, protection_request
from resources.dask_cluster import DaskCluster
from resources.places import Places


@asset(
    deps=[photo_catalog],
    partitions_def=drops,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="protection",
    kinds={"deltalake", "dask", "onnx"},
    description=__doc__,
)
def protected_catalog(
    context: AssetExecutionContext, config: ProtectionConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Protects what is missing of each drop and commits it; a finished drop costs one listing."""
    protected = quarantined = 0
    with dask.connect() as workers:
        for drop in context.partition_keys:
            request = protection_request(drop, config, places)
            summary = run_drop(request, workers, catalog=read_current(request.state, drop))
            held = sum(summary.quarantined.values())
            protected, quarantined = protected + summary.protected, quarantined + held
            context.add_asset_metadata(
                {
                    "photos": summary.photos,
                    "protected": summary.protected,
                    "skipped": summary.skipped,
                    "quarantined": held,
                    "quarantine reasons": summary.quarantined,
                    "photos per second": round(summary.photos_computed / max(summary.seconds, 1e-9), 2),
                    "shards written": summary.shards_written,
                    "table version": summary.version,
                    "defender": summary.defender_digest,
                },
                partition_key=drop,
            )
    return MaterializeResult(metadata={"protected": protected, "quarantined": quarantined})

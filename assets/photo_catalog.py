"""One row a photo of the drop: where it lies, its sha256, and what its header says."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from assets.drop_run import catalogue
from assets.partitions import drops
from assets.requests import ProtectionConfig, protection_request
from resources.dask_cluster import DaskCluster
from resources.places import Places


@asset(
    partitions_def=drops,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="protection",
    kinds={"parquet", "dask"},
    description=__doc__,
)
def photo_catalog(
    context: AssetExecutionContext, config: ProtectionConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Lists and indexes each drop; an unchanged one writes nothing."""
    total = 0
    with dask.connect() as workers:
        for drop in context.partition_keys:
            catalog = catalogue(protection_request(drop, config, places), workers)
            total += catalog.photos
            context.add_asset_metadata(
                {
                    "photos": catalog.photos,
                    "bytes": catalog.bytes_in,
                    "ignored files": catalog.ignored,
                    "shards": catalog.shards,
                    "catalog": catalog.url,
                },
                partition_key=drop,
            )
    return MaterializeResult(metadata={"photos": total})

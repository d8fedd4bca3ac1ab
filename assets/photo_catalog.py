"""One row a photo of the drop: where it lies, its sha256, and what its header says."""

from dagster import AssetSpec, MetadataValue, PathMetadataValue, UrlMetadataValue

from rid.assets.catalog.plan import DropCatalog
from rid.assets.events import Made
from rid.assets.operations import PROTECTION_OWNERS
from rid.assets.partitions import drops
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import catalogue
from rid.assets.shown_columns import CATALOG_COLUMNS, COLUMN_SCHEMA
from rid.resources.dask_workers import Workers
from rid.resources.places import Places

PHOTO_CATALOG = "photo_catalog"
INDEX_EPOCH = 1  # raised when the catalog of an unchanged drop changes on purpose


SPEC = AssetSpec(
    PHOTO_CATALOG,
    partitions_def=drops,
    skippable=True,
    group_name="protection",
    kinds={"parquet", "dask"},
    owners=PROTECTION_OWNERS,
    code_version=str(INDEX_EPOCH),
    description=__doc__,
    metadata={COLUMN_SCHEMA: CATALOG_COLUMNS},
)


def make_photo_catalog(request: ProtectionRequest, workers: Workers, places: Places) -> tuple[DropCatalog, Made]:
    """Lists and indexes a drop; an unchanged one writes nothing."""
    catalog = catalogue(request, workers)
    metadata = {
        "photos": catalog.photos,
        "bytes": catalog.bytes_in,
        "ignored files": catalog.ignored,
        "shards": catalog.shards,
        "source": MetadataValue.path(catalog.source),
        "dagster/uri": catalog.url,
        "dagster/row_count": catalog.photos,
        "report": report_link(places, request.drop),
    }
    return catalog, Made(PHOTO_CATALOG, catalog_version(catalog), {}, metadata)


def catalog_version(catalog: DropCatalog) -> str:
    """Digest of a catalog's content, which also names its file."""
    return catalog.url.rpartition("/")[2].removesuffix(".parquet")


def report_link(places: Places, drop: str) -> UrlMetadataValue | PathMetadataValue:
    """A link to the drop's report, which may not be made yet."""
    link = places.report_link(drop)
    return MetadataValue.url(link) if link.startswith("http") else MetadataValue.path(link)

"""How protected photos look, what protection does to diffusion models, and what was held back: a page and a CSV."""

import base64

from dagster import AssetExecutionContext, BackfillPolicy, Config, MaterializeResult, MetadataValue, asset
from pydantic import Field

from assets.drop_plan import read_current, state_url
from assets.drop_report import EFFECT, QUALITY, SHEET, DropReport, ReportRequest, report_drop
from assets.partitions import drops
from assets.protected_catalog import protected_catalog
from assets.training_config import frozen_models
from resources.commits import ProtectedTable
from resources.dask_cluster import DaskCluster
from resources.places import Places
from resources.storage import Storage

PICTURES = (("look", QUALITY, "png"), ("protection", EFFECT, "png"), ("contact sheet", SHEET, "jpeg"))


class ReportConfig(Config):
    """What a report measures and shows."""

    models: list[str] = Field(
        default=["embedded"], description="Frozen diffusion models to measure on; an empty list measures nothing."
    )
    photos: int = Field(default=64, description="Protected photos that are measured, a seeded sample.")
    draws: int = Field(default=8, description="Time steps a photo.")
    seed: int = Field(default=1001, description="Of the sample, the time steps and the noise.")
    contact_sheet: int = Field(
        default=0, description="Photos on the contact sheet; 0 leaves it out: the report then shows no person."
    )


@asset(
    deps=[protected_catalog],
    partitions_def=drops,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="protection",
    kinds={"html", "dask", "torch"},
    description=__doc__,
)
def protection_report(
    context: AssetExecutionContext, config: ReportConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Reports on each drop; a drop that did not change since its report is left alone."""
    made = 0
    with dask.connect() as workers:
        for drop in context.partition_keys:
            request = report_request(drop, config, places)
            report = report_drop(request, workers)
            made += report.made
            context.add_asset_metadata(_metadata(report, request.folder), partition_key=drop)
    return MaterializeResult(metadata={"reports made": made})


def report_request(drop: str, config: ReportConfig, places: Places) -> ReportRequest:
    """From a partition and a run's configuration to a request.

    Raises:
        ValueError: if the drop has no catalog.
    """
    table = ProtectedTable(places.protected_table())
    catalog = read_current(state_url(table.url), drop)
    if catalog is None:
        raise ValueError(f"drop {drop!r} has no catalog: materialise photo_catalog and protected_catalog first")
    return ReportRequest(
        table=table,
        target=Storage(table.url),
        drop=drop,
        catalog=catalog,
        folder=Storage(places.home).child("reports", drop),
        models=tuple(frozen_models(config.models, places)) if config.models else (),
        photos=config.photos,
        shown=config.contact_sheet,
        draws=config.draws,
        seed=config.seed,
        find_defender=places.registry().find,
    )


def _metadata(report: DropReport, folder: Storage) -> dict[str, object]:
    figures = report.figures
    metadata: dict[str, object] = {
        "report": MetadataValue.url(report.url if "://" in report.url else f"file://{report.url}"),
        "photos": figures["photos"],
        "protected": figures["protected"],
        "skipped": figures["skipped"],
        "quarantined": figures["quarantined"],
        "quarantine reasons": figures["reasons"],
        "made in this run": report.made,
    }
    for name, spread in figures["look"].items():
        metadata[f"median {name}"] = round(spread["median"], 4)
    for effect in figures["protection"]:
        change = effect["protected"]
        text = f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"
        metadata[f"diffusion loss of {effect['model']}"] = text
    for title, name, kind in PICTURES:
        if folder.exists(name):
            data = base64.b64encode(folder.read_bytes(name)).decode()
            metadata[title] = MetadataValue.md(f"![{title}](data:image/{kind};base64,{data})")
    return metadata

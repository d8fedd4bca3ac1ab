"""A page and a CSV: the look of protected photos, the effect on diffusion models, and what was held back."""

from pathlib import Path

from dagster import AssetSpec, Config
from pydantic import Field

from rid.assets.catalog.plan import read_current, state_storage
from rid.assets.checks import PROTECTED_CATALOG
from rid.assets.events import Made
from rid.assets.operations import PROTECTION_OWNERS
from rid.assets.partitions import drops
from rid.assets.photo_catalog import report_link
from rid.assets.protected_catalog import quarantine_table
from rid.assets.reports.drop_report import EFFECT, QUALITY, REPORT_EPOCH, SHEET, DropReport, ReportRequest, report_drop
from rid.assets.shown_pictures import inline_picture
from rid.assets.training_config import frozen_models
from rid.resources.dask_workers import Workers
from rid.resources.frozen.latent_spaces import space_sources
from rid.resources.places import Places
from rid.resources.storage import Storage

PROTECTION_REPORT = "protection_report"
PICTURES = (("look", QUALITY, "png"), ("protection", EFFECT, "png"), ("contact sheet", SHEET, "jpeg"))

SPEC = AssetSpec(
    PROTECTION_REPORT,
    deps=[PROTECTED_CATALOG],
    partitions_def=drops,
    skippable=True,
    group_name="protection",
    kinds={"html", "dask", "torch"},
    owners=PROTECTION_OWNERS,
    code_version=str(REPORT_EPOCH),
    description=__doc__,
)


class ReportConfig(Config):
    """Settings of a report: what it measures and shows."""

    models: list[str] = Field(
        default=["embedded"], description="Frozen diffusion models to measure on; an empty list measures nothing."
    )
    spaces: list[str] = Field(
        default=[], description="Latent spaces to measure displacement in: sd1, sdxl, sd3, flux1, folders, hub ids."
    )
    photos: int = Field(default=64, description="Protected photos that are measured, a seeded sample.")
    draws: int = Field(default=8, description="Time steps a photo.")
    seed: int = Field(default=1001, description="Of the sample, the time steps and the noise.")
    contact_sheet: int = Field(
        default=0, description="Photos on the contact sheet; 0 leaves it out: the report then shows no person."
    )


def make_protection_report(
    drop: str, config: ReportConfig, protected_version: str, workers: Workers, places: Places
) -> Made:
    """Reports on a drop; one that did not change since its report is left alone."""
    request = report_request(drop, config, places)
    report = report_drop(request, workers)
    metadata = _metadata(report, request.folder) | {"report": report_link(places, drop)}
    version = report_version(protected_version, report.figures["inputs"])
    return Made(PROTECTION_REPORT, version, {PROTECTED_CATALOG: protected_version}, metadata)


def report_version(protected_version: str, inputs: str = "") -> str:
    """Version of a drop's report; it begins with that of what it reports on.

    Args:
        protected_version: of the drop's protected photos.
        inputs: digest of everything that the report is made of; without it, what the version begins with.
    """
    return f"{protected_version}/{inputs[:12]}"


def report_request(drop: str, config: ReportConfig, places: Places) -> ReportRequest:
    """From a partition and a run's configuration to a request.

    Raises:
        ValueError: if the drop has no catalog.
    """
    table = places.protected_table()
    catalog = read_current(state_storage(table.storage), drop)
    if catalog is None:
        raise ValueError(f"drop {drop!r} has no catalog: materialise photo_catalog and protected_catalog first")
    return ReportRequest(
        table=table,
        target=table.storage,
        drop=drop,
        catalog=catalog,
        folder=places.reports(drop),
        models=tuple(frozen_models(config.models, places)) if config.models else (),
        spaces=tuple(space_sources(config.spaces, Path(places.weights) / "embedded-64")) if config.spaces else (),
        photos=config.photos,
        shown=config.contact_sheet,
        draws=config.draws,
        seed=config.seed,
        find_defender=places.registry().find,
    )


def _metadata(report: DropReport, folder: Storage) -> dict[str, object]:
    figures = report.figures
    metadata: dict[str, object] = {
        "photos": figures["photos"],
        "protected": figures["protected"],
        "skipped": figures["skipped"],
        "quarantined": figures["quarantined"],
        "quarantine": quarantine_table(figures["reasons"], figures["photos"]),
        "made in this run": report.made,
    }
    for name, spread in figures["look"].items():
        metadata[f"median {name}"] = round(spread["median"], 4)
    for effect in figures["protection"]:
        change = effect["protected"]
        text = f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"
        metadata[f"diffusion loss of {effect['model']}"] = text
    for moved in figures["displacement"]:
        ratio = moved["over_noise"]
        metadata[f"displacement in {moved['space']}, times noise"] = (
            f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        )
    for title, name, kind in PICTURES:
        if folder.exists(name):
            metadata[title] = inline_picture(title, folder.read_bytes(name), kind)
    return metadata

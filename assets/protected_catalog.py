"""Every photo of the drop: protected, skipped or quarantined with a reason; one commit a drop."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dagster import (
    AssetSpec,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)

from rid.assets.catalog.picture_columns import NONE_NAMED
from rid.assets.catalog.plan import DropCatalog, plan_shards, read_current
from rid.assets.checks import PROTECTED_CATALOG, DropCounts, Outcome, check_drop
from rid.assets.custody.shard_verification import Verified, VerifyTask, verify_shard
from rid.assets.events import Made
from rid.assets.operations import PROTECTION_OWNERS
from rid.assets.partitions import drops
from rid.assets.photo_catalog import PHOTO_CATALOG, catalog_version, report_link
from rid.assets.protection.options import ProtectionSettings
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import run_drop
from rid.assets.protection.shards.files import recorded_salt
from rid.assets.protection.shards.names import parse_shard_file
from rid.assets.protection.shards.task import CODE_EPOCH
from rid.assets.protection.summary import DropSummary
from rid.assets.protection_inputs import PROMOTED_DEFENDER, PROTECTION_POLICY
from rid.assets.reports.drop_report import QUALITY
from rid.assets.reports.pictures import quality_picture
from rid.assets.shown_columns import COLUMN_SCHEMA, PROTECTED_COLUMNS, table_schema
from rid.assets.shown_pictures import inline_picture
from rid.resources.commits import ShardFile
from rid.resources.dask_workers import Workers
from rid.resources.places import Places
from rid.resources.schemas import Status

METADATA_PHOTOS = 16  # photos a run whose metadata is compared, about


SPEC = AssetSpec(
    PROTECTED_CATALOG,
    deps=[PHOTO_CATALOG, PROMOTED_DEFENDER, PROTECTION_POLICY],
    partitions_def=drops,
    skippable=True,
    group_name="protection",
    kinds={"deltalake", "dask", "onnx"},
    owners=PROTECTION_OWNERS,
    code_version=str(CODE_EPOCH),
    description=__doc__,
    metadata={COLUMN_SCHEMA: PROTECTED_COLUMNS},
)


def make_protected_catalog(
    request: ProtectionRequest,
    settings: ProtectionSettings,
    catalog: DropCatalog | None,
    workers: Workers,
    places: Places,
    *,
    recheck: bool,
) -> Made:
    """Protects what is missing of a drop, commits it, and checks what was written; a finished drop costs one listing.

    Args:
        request: the drop's.
        settings: what the run is pinned to.
        catalog: one that was just made; None takes the drop's current one, or makes it.
        workers: where it is done.
        places: where things are.
        recheck: read everything back, also what was written before.

    Raises:
        FailureBudgetExceeded: if too many photos are quarantined; nothing is committed then.
    """
    table = request.target.receipts
    before = table.live_files(request.drop)
    current = catalog or read_current(request.target.state, request.drop)
    summary = run_drop(request, workers, catalog=current)
    live = table.live_files(request.drop) if summary.committed else before
    used = read_current(request.target.state, request.drop)
    assert used is not None, "run_drop leaves the catalog that it committed"
    fresh = [file for path, file in live.items() if recheck or path not in before]
    verified = verify(request, used, fresh, request.salt(), workers)
    rows = sum(file.rows for file in live.values())
    held = sum(summary.quarantined.values())
    counts = DropCounts(summary.photos, rows, summary.protected + summary.skipped + held, held)
    outcomes = tuple(check_drop(counts, verified, settings.policy, settings.budget_levels))
    metadata = {
        "photos": summary.photos,
        "protected": summary.protected,
        "skipped": summary.skipped,
        "quarantined": held,
        "quarantine": quarantine_table(summary.quarantined, summary.photos),
        **_pictures(verified, places, request.drop),
        "report": report_link(places, request.drop),
        **_work(summary, settings),
        COLUMN_SCHEMA: table_schema(table.schema()),
        "dagster/uri": request.target.url,
        "dagster/row_count": rows,
    }
    return Made(PROTECTED_CATALOG, table_version(settings, used, live), inputs(settings, used), metadata, outcomes)


def check_protected_catalog(
    request: ProtectionRequest, settings: ProtectionSettings, workers: Workers
) -> tuple[Outcome, ...]:
    """Reads all of a committed drop back, whatever it was protected with, and changes nothing.

    Raises:
        ValueError: if the drop was never protected.
    """
    table = request.target.receipts
    catalog, live = read_current(request.target.state, request.drop), table.live_files(request.drop)
    if catalog is None or not live:
        raise ValueError(f"drop {request.drop!r} was not protected yet: materialise protected_catalog first")
    salt = recorded_salt(table.storage, next(iter(live)))
    verified = verify(request, catalog, list(live.values()), salt, workers)
    counts = DropCounts(
        photos=catalog.photos,
        rows=sum(file.rows for file in live.values()),
        outcomes=sum(verified.statuses[status] for status in Status),
        quarantined=verified.statuses[Status.QUARANTINED],
    )
    return tuple(check_drop(counts, verified, settings.policy, settings.budget_levels))


def verify(
    request: ProtectionRequest, catalog: DropCatalog, files: Sequence[ShardFile], salt: str, workers: Workers
) -> Verified:
    """Reads shard files back on workers and adds up what they find.

    Args:
        request: the drop's.
        catalog: the drop's.
        files: of the drop.
        salt: what they were protected with.
        workers: where it is done.
    """
    verified = Verified()
    if not files:
        return verified
    numbers = {shard.work_key: shard.number for shard in plan_shards(catalog, salt)}
    tasks = [
        VerifyTask(
            table=request.target.receipts.storage,
            drop=request.drop,
            path=file.path,
            rows=file.rows,
            catalog_url=catalog.url,
            shard=numbers.get(parse_shard_file(file.path)[0]),
            sample=-(-METADATA_PHOTOS // len(files)),
            columns=catalog.columns or NONE_NAMED,
        )
        for file in files
    ]
    for done in workers.run(verify_shard, tasks, prefix="verify", expected=len(tasks)):
        if done.result is None:
            raise RuntimeError(f"a worker died while it read drop {request.drop!r} back: run again")
        verified.add(done.result)
    return verified


def table_version(settings: ProtectionSettings, catalog: DropCatalog, live: Mapping[str, ShardFile]) -> str:
    """Version of a drop's committed rows; it begins with what decides them.

    Shards that were done again, because outputs were lost or quarantined photos were tried again, make another one.
    """
    generations = sum(parse_shard_file(path)[1] for path in live)
    return expected_version(settings, catalog_version(catalog)) + (f".{generations}" if generations else "")


def expected_version(settings: ProtectionSettings, catalog: str) -> str:
    """Returns how the version of a drop begins that is not outdated.

    Args:
        settings: what it is protected with.
        catalog: version of its catalog.
    """
    return f"{settings.version()}.{catalog}"


def inputs(settings: ProtectionSettings, catalog: DropCatalog) -> dict[str, str]:
    """Versions of what a drop was protected with."""
    return {
        PHOTO_CATALOG: catalog_version(catalog),
        PROMOTED_DEFENDER: settings.defender.digest,
        PROTECTION_POLICY: settings.policy_version,
    }


def quarantine_table(reasons: Mapping[str, int], photos: int) -> TableMetadataValue:
    """Held back photos by reason. Their names are personal data and in the report alone."""
    columns = [TableColumn("reason", "string"), TableColumn("photos", "int"), TableColumn("share", "string")]
    return MetadataValue.table(
        records=[
            TableRecord({"reason": reason, "photos": count, "share": f"{count / max(1, photos):.1%}"})
            for reason, count in reasons.items()
        ],
        schema=TableSchema(columns),
    )


def _work(summary: DropSummary, settings: ProtectionSettings) -> dict[str, Any]:
    """Says what was done, and with what; the tags of the materialisation have the digests whole."""
    return {
        "photos per second": round(summary.photos_computed / max(summary.seconds, 1e-9), 2),
        "shards written": summary.shards_written,
        "committed in this run": summary.committed,
        "table version": summary.version,
        "defender": f"{settings.defender.name} {settings.defender.digest[:12]}",
        "budget, levels": settings.budget_levels,
        "policy": settings.policy.digest()[:12],
    }


def _pictures(verified: Verified, places: Places, drop: str) -> dict[str, Any]:
    """Pictures of how the photos look that were written now; of a drop that was done before, those of its report."""
    if len(verified.psnr) and len(verified.ssim):
        measures = {"psnr": np.array(verified.psnr, np.float32), "ssim": np.array(verified.ssim, np.float32)}
        data = quality_picture(measures, "png")
    elif places.reports(drop).exists(QUALITY):
        data = places.reports(drop).read_bytes(QUALITY)
    else:
        return {}
    return {"look": inline_picture("look", data, "png")}

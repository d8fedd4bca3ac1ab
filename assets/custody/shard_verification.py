"""Checks what a run has written to a table, a shard a task: what workers run, and what it adds up to.

The photos are read back from storage: hashed, counted, measured against their originals where the format is lossless,
and for a sample of them the metadata is compared.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from rid.assets.catalog.picture_columns import NONE_NAMED, PictureColumns
from rid.assets.catalog.plan import read_shards
from rid.assets.catalog.rows import CatalogRows
from rid.assets.catalog.sources import read_original
from rid.assets.custody.kept_metadata import compare_metadata
from rid.assets.custody.verification import DropCheck, Verification
from rid.assets.protection.shards.files import find_photos
from rid.resources.commits import ProtectedTable, ShardFile
from rid.resources.schemas import CATALOG, Status
from rid.resources.storage import Storage


@dataclass(frozen=True)
class _LookRow:
    """The part of a receipt that says how a photo looks."""

    key: str
    status: str
    budget_levels: int
    linf_levels: int | None
    psnr: float | None
    ssim: float | None
    visible_share: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Key:
    key: str


@dataclass(frozen=True)
class VerifyTask:
    """One shard file to read back.

    Attributes:
        table: the storage of its table.
        drop: its drop.
        path: the file, relative to the table.
        rows: photos that were committed with it.
        catalog_url: the drop's catalog.
        shard: its number in it; None if it was made of an earlier catalog, whose originals are unknown.
        sample: photos whose metadata is compared, at most.
        columns: what became of columns that hold pictures.
    """

    table: Storage
    drop: str
    path: str
    rows: int
    catalog_url: str
    shard: int | None
    sample: int
    columns: PictureColumns = NONE_NAMED


@dataclass
class Verified:
    """Findings of one shard or of several.

    Attributes:
        shards: number of files.
        statuses: rows that were read, by status.
        published: photos that were hashed.
        findings: what is not as recorded, by kind; see `rid.assets.custody.verification.Finding`.
        budgets_measured: lossless photos whose budget was measured again.
        over_budget: photos whose recorded change is zero or above the budget.
        metadata_compared: photos whose metadata was compared.
        metadata_lost: photos that lack a kind of metadata, by kind.
        leaking: photos with a thumbnail.
        psnr: of the protected photos, dB.
        ssim: of the same.
        visible_share: of the same; photos that were protected by an earlier version have none.
    """

    shards: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    published: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    budgets_measured: int = 0
    over_budget: int = 0
    metadata_compared: int = 0
    metadata_lost: Counter[str] = field(default_factory=Counter)
    leaking: int = 0
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    visible_share: list[float] = field(default_factory=list)

    def add(self, other: Verified) -> None:
        """Adds what was found of other shards."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif isinstance(mine, list):
                mine.extend(value)
            else:
                setattr(self, name, mine + value)


def verify_shard(task: VerifyTask) -> Verified:
    """Reads one shard file back; runs on a worker.

    Raises:
        OSError: for faults of the storage, which the caller repeats.
    """
    table, result = ProtectedTable(task.table), Verification()
    originals = CatalogRows(_rows_of(task))
    check = DropCheck(table, table.storage, "table", task.drop, result, originals, task.columns)
    check.shard(ShardFile(task.path, 0, task.rows))
    verified = Verified(
        shards=1,
        published=result.published,
        findings=Counter(finding.kind for finding in result.findings),
        budgets_measured=result.budgets_checked,
    )
    if "missing" not in verified.findings and "changed" not in verified.findings:
        _look(table, task, originals, verified)
    return verified


def _rows_of(task: VerifyTask) -> pa.Table:
    """The catalog's rows of the shard; none where the drop's plan has changed since."""
    if task.shard is None:
        return CATALOG.empty_table()
    ((_, rows),) = read_shards(task.catalog_url, wanted=[task.shard])
    return rows


def _look(table: ProtectedTable, task: VerifyTask, originals: CatalogRows, verified: Verified) -> None:
    """Adds what the receipts say of the look, and compares the metadata of a sample."""
    rows = table.shard_records(task.path, _LookRow)
    verified.statuses.update(row.status for row in rows)
    protected = [row for row in rows if row.status == Status.PROTECTED]
    for row in protected:
        verified.over_budget += not 0 < (row.linf_levels or 0) <= row.budget_levels
        verified.psnr += [row.psnr] if row.psnr is not None else []
        verified.ssim += [row.ssim] if row.ssim is not None else []
        verified.visible_share += [row.visible_share] if row.visible_share is not None else []
    flags = {row.key: row.flags for row in protected}
    sample = heapq.nsmallest(task.sample, flags, key=lambda key: hashlib.sha256(key.encode()).digest())
    for found, published in find_photos(table.storage, task.path, _Key, set(sample)):
        key = found.key
        original = read_original(originals.row(key))
        if original is not None and published is not None:
            kept = compare_metadata(original, published, flags[key])
            verified.metadata_compared += 1
            verified.metadata_lost.update(kept.lost)
            verified.leaking += kept.leaks

"""Checks a target against its receipts: everything published is re-hashed, every row recounted.

For lossless formats the budget is measured again, where the originals can still be read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import cv2
import pyarrow as pa

from rid.assets.catalog.picture_columns import NONE_NAMED, PictureColumns, columns_with_pictures
from rid.assets.catalog.plan import DropCatalog, read_catalog
from rid.assets.catalog.rows import CatalogRows
from rid.assets.catalog.sources import read_original
from rid.assets.protection.shards.files import carried_schema, readable_columns, stored_images, stored_pictures
from rid.assets.protection.shards.other_pictures import picture_digests
from rid.assets.protection.targets import Target, find_target
from rid.models.photo_files.images import decode
from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import READ_ALL
from rid.models.protector import colour_planes
from rid.resources.catalogs import open_parquet
from rid.resources.commits import ProtectedTable, ShardFile
from rid.resources.records import CatalogRow, SidecarReceipt, read_records, sidecar_receipts
from rid.resources.schemas import CATALOG, PHOTO_SUFFIXES, PICTURES_COLUMN, Status
from rid.resources.storage import Storage
from rid.resources.unfinished_files import WRITING

LOSSLESS = ("PNG", "TIFF", "WEBP")
ROWS = 64


@dataclass(frozen=True)
class _CheckedRow:
    """The part of a receipt that is held against what was published."""

    key: str
    status: str
    format: str | None
    output_path: str | None
    output_sha256: str | None
    defender_digest: str
    policy_digest: str
    budget_levels: int
    flags: tuple[str, ...] = ()
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the receipts say.

    Attributes:
        kind: missing, changed, extra, half_written, rows, budget, unreadable or unprotected.
        drop: the drop, or "" where it belongs to none.
        name: the photo or file.
        detail: what was expected and what is there.
    """

    kind: str
    drop: str
    name: str
    detail: str


@dataclass
class Verification:
    """The result of a verification; it passes if there are no findings.

    Attributes:
        photos: rows that were checked.
        published: photos whose bytes were re-hashed.
        sidecars: XMP files beside photos that were re-hashed.
        pictures: those in protected columns beside photos that were re-hashed.
        findings: what does not match.
        by_defender: photos by (drop, defender digest, policy digest).
        budgets_checked: lossless photos whose budget was measured again.
        budgets_unchecked: lossless photos whose original could not be read.
    """

    photos: int = 0
    published: int = 0
    sidecars: int = 0
    pictures: int = 0
    findings: list[Finding] = field(default_factory=list)
    by_defender: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    budgets_checked: int = 0
    budgets_unchecked: int = 0

    @property
    def passed(self) -> bool:
        """True if nothing was found."""
        return not self.findings

    def add(self, kind: str, drop: str, name: str, detail: str) -> None:
        """Records a finding."""
        self.findings.append(Finding(kind, drop, name, detail))

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return {
            "passed": self.passed,
            "photos": self.photos,
            "published": self.published,
            "sidecars": self.sidecars,
            "pictures": self.pictures,
            "findings": [vars(finding) for finding in self.findings],
            "protected_by": [
                {"drop": drop, "defender_digest": defender, "policy_digest": policy, "photos": count}
                for (drop, defender, policy), count in sorted(self.by_defender.items())
            ],
            "budgets_checked": self.budgets_checked,
            "budgets_unchecked": self.budgets_unchecked,
        }


def verify_target(
    target: str, source: str | None = None, on_photo: Callable[[int], None] = lambda _: None
) -> Verification:
    """Verifies every drop of a target.

    Args:
        target: a folder, a prefix or a table.
        source: where the originals lie now, if they moved.
        on_photo: called with the number of rows checked.

    Raises:
        NotATarget: if nothing was published there.
    """
    found = find_target(target)
    table, result = found.receipts, Verification()
    published: set[str] = set()
    for drop in table.drops():
        catalog = found.current(drop)
        if catalog is None:
            result.add("missing", drop, "catalog", "the drop's catalog is gone: rows cannot be recounted")
        originals = CatalogRows(read_catalog(catalog) if catalog is not None else CATALOG.empty_table())
        moved = (catalog.source, Storage(source).url) if catalog is not None and source is not None else None
        columns = (catalog.columns if catalog is not None else None) or NONE_NAMED
        check = DropCheck(table, found.storage, found.kind, drop, result, originals, columns, moved)
        for shard in sorted(table.live_files(drop).values(), key=lambda shard: shard.path):
            check.shard(shard)
            on_photo(result.photos)
        published |= check.published
        if catalog is not None:
            check.recount(catalog)
    _find_strangers(found, published, result)
    return result


class DropCheck:
    """Verifies the shards of one drop; at most one batch of rows and photos is in memory.

    Args:
        table: the receipts.
        target: where the photos are.
        kind: of the target, "files" or "table".
        drop: its name.
        result: where findings go.
        originals: what came in.
        columns: what became of columns that hold pictures.
        moved: where the originals lay and where they lie now, if they moved.
    """

    def __init__(
        self,
        table: ProtectedTable,
        target: Storage,
        kind: str,
        drop: str,
        result: Verification,
        originals: CatalogRows,
        columns: PictureColumns = NONE_NAMED,
        moved: tuple[str, str] | None = None,
    ) -> None:
        self._table = table
        self._target = target
        self._kind = kind
        self._drop = drop
        self._result = result
        self._originals = originals
        self._columns = columns
        self._moved = moved
        self._strangers: Counter[str] = Counter()
        self.published: set[str] = set()

    def shard(self, shard: ShardFile) -> None:
        """Re-hashes the photos of one shard and measures the budgets of its lossless ones."""
        count = 0
        try:
            with self._table.storage.open(shard.path) as file:
                parquet = open_parquet(file)
                beside = carried_schema(parquet.schema_arrow)
                open_columns, pictures = self._columns.open_in(beside), self._columns.in_schema(beside)
                columns = [*readable_columns(_CheckedRow, parquet), *open_columns, *pictures]
                columns += [PICTURES_COLUMN] if PICTURES_COLUMN in parquet.schema_arrow.names else []
                unprotected: set[str] = set()
                for batch in parquet.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
                    self._batch(batch)
                    self._check_pictures(batch, pictures)
                    unprotected.update(columns_with_pictures(batch, open_columns))
                    count += batch.num_rows
                for name in sorted(unprotected):
                    self._add("unprotected", name, f"the column holds pictures that were not protected: {shard.path}")
        except FileNotFoundError:
            self._add("missing", shard.path, f"the shard's file is gone, and {shard.rows} photos with it")
        except (OSError, pa.ArrowInvalid) as error:
            self._add("changed", shard.path, f"the shard's file cannot be read: {str(error).splitlines()[0][:200]}")
        else:
            if count != shard.rows:
                self._add("rows", shard.path, f"{shard.rows} rows were committed, {count} are there")

    def recount(self, catalog: DropCatalog) -> None:
        """Compares the rows with the photos that came in."""
        rows = self._originals.counted() + self._strangers.total()
        if rows != catalog.photos:
            self._add("rows", "table", f"{catalog.photos} photos came in, {rows} rows are there")
        for key, count in self._strangers.items():
            self._add("rows", key, "no photo of this name came in")
            if count > 1:
                self._add("rows", key, f"the photo has {count} rows")
        for key, count in self._originals.uneven():
            self._add("rows", key, f"the photo has {count} rows" if count else "the photo has no row")

    def _batch(self, batch: pa.RecordBatch) -> None:
        lossless: dict[str, tuple[_CheckedRow, bytes]] = {}
        for row, image in zip(read_records(_CheckedRow, batch), stored_images(batch), strict=True):
            self._result.photos += 1
            if not self._originals.count(row.key):
                self._strangers[row.key] += 1
            if row.status not in {status.value for status in Status}:
                self._add("rows", row.key, f"status {row.status!r} is none")
            data = self._published_bytes(row, image) if row.output_sha256 is not None else None
            self._check_sidecars(row.sidecars)
            lossy = "quality_estimated" in row.flags
            if data is not None and row.status == Status.PROTECTED and row.format in LOSSLESS and not lossy:
                lossless[row.key] = (row, data)
        self._measure(lossless)

    def _published_bytes(self, row: _CheckedRow, image: bytes | None) -> bytes | None:
        """The published photo if it is what its receipt says, else None and a finding."""
        if row.status == Status.PROTECTED:
            self._result.by_defender[self._drop, row.defender_digest, row.policy_digest] += 1
        name = row.output_path or row.key
        if self._kind == "files":
            self.published.add(name)
            try:
                data = self._target.read_bytes(name)
            except FileNotFoundError:
                self._add("missing", name, "the published photo is gone")
                return None
        else:
            data = image or b""
        self._result.published += 1
        if hashlib.sha256(data).hexdigest() == row.output_sha256:
            return data
        self._add("changed", name, "its sha256 is not that of its receipt")
        return None

    def _check_pictures(self, batch: pa.RecordBatch, names: list[str]) -> None:
        """Re-hashes the pictures in protected columns beside the photo."""
        if not names:
            return
        where = ", ".join(repr(name) for name in names)
        values = batch.select(names).to_pylist()
        for key, carried, digests in zip(batch.column("key").to_pylist(), values, stored_pictures(batch), strict=True):
            found = picture_digests([carried[name] for name in names])
            self._result.pictures += len(found)
            if found != digests:
                self._add("changed", key, f"the pictures in column {where} are not those of its receipt")

    def _check_sidecars(self, sidecars: Iterable[SidecarReceipt]) -> None:
        """Re-hashes the XMP files that went along with a photo."""
        for sidecar in sidecars:
            self.published.add(sidecar.path)
            try:
                data = self._target.read_bytes(sidecar.path)
            except FileNotFoundError:
                self._add("missing", sidecar.path, "the sidecar of a published photo is gone")
                continue
            self._result.sidecars += 1
            if hashlib.sha256(data).hexdigest() != sidecar.sha256:
                self._add("changed", sidecar.path, "its sha256 is not that of its photo's receipt")

    def _measure(self, lossless: dict[str, tuple[_CheckedRow, bytes]]) -> None:
        """Measures the budget of lossless photos again, against their originals."""
        for key, (row, data) in lossless.items():
            original = read_original(self._original(key))
            if original is None:
                self._result.budgets_unchecked += 1
                continue
            try:
                before = colour_planes(decode(original, READ_ALL).pixels)
                after = colour_planes(decode(data, READ_ALL).pixels)
            except PhotoRefused as refusal:
                self._add("unreadable", key, str(refusal))
                continue
            self._result.budgets_checked += 1
            worst = int(cv2.absdiff(before, after).max()) if before.shape == after.shape else 256
            if not 0 < worst <= row.budget_levels:
                self._add("budget", key, f"differs by {worst} levels; 1 to {row.budget_levels} are allowed")

    def _original(self, key: str) -> CatalogRow | None:
        """The catalog's row of a photo, which points to where the original lies now."""
        row = self._originals.row(key)
        if row is None or self._moved is None:
            return row
        before, now = self._moved
        return replace(row, source_uri=now + row.source_uri.removeprefix(before))

    def _add(self, kind: str, name: str, detail: str) -> None:
        self._result.add(kind, self._drop, name, detail)


def _find_strangers(target: Target, published: set[str], result: Verification) -> None:
    """Names files of a folder target that no receipt knows, and files that were being written."""
    for entry in target.storage.list_files():
        name = PurePosixPath(entry.path)
        if entry.path.endswith(WRITING):
            result.add("half_written", "", entry.path, "a write goes on, or was cut off and is removed by the next run")
        elif target.kind == "files" and name.parts[0] != "_rid" and entry.path not in published:
            what = "an image that was not protected here" if name.suffix.lower() in PHOTO_SUFFIXES else "a file"
            result.add("extra", "", entry.path, f"{what}: no receipt names it")

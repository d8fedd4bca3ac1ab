"""Checks a target against its receipts: everything published is re-hashed, every row recounted.

For lossless formats the budget is measured again, where the originals can still be read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from assets.drop_plan import DropCatalog, read_catalog, read_current
from assets.source_photos import InputChanged, read_photos
from models.images import decode
from models.photos import PhotoRefused
from models.policy import PILLOW_BOMB_PIXELS, ProtectionPolicy
from models.protector import colour_planes
from resources.catalogs import open_parquet
from resources.commits import ProtectedTable, ShardFile
from resources.schemas import PHOTO_SUFFIXES, Status
from resources.storage import WRITING, Storage

LOSSLESS = ("PNG", "TIFF", "WEBP")
READ_ALL = ProtectionPolicy(max_bytes=2**31 - 1, max_pixels=2 * PILLOW_BOMB_PIXELS, max_side=65_500, min_side=1)
ROWS = 64


class NotATarget(ValueError):
    """There is nothing at the URL that this system published."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the receipts say.

    Attributes:
        kind: missing, changed, extra, half_written, rows, budget or unreadable.
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
        findings: what does not match.
        by_defender: photos by (drop, defender digest, policy digest).
        budgets_checked: lossless photos whose budget was measured again.
        budgets_unchecked: lossless photos whose original could not be read.
    """

    photos: int = 0
    published: int = 0
    findings: list[Finding] = field(default_factory=list)
    by_defender: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    budgets_checked: int = 0
    budgets_unchecked: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
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
            "findings": [vars(finding) for finding in self.findings],
            "protected_by": [
                {"drop": drop, "defender_digest": defender, "policy_digest": policy, "photos": count}
                for (drop, defender, policy), count in sorted(self.by_defender.items())
            ],
            "budgets_checked": self.budgets_checked,
            "budgets_unchecked": self.budgets_unchecked,
        }


def target_table(target: str) -> tuple[ProtectedTable, str]:
    """Returns the receipts table of a target, and its kind, "files" or "table".

    Raises:
        NotATarget: if there is none.
    """
    for url, kind in ((target, "table"), (f"{Storage(target).url}/_rid", "files")):
        table = ProtectedTable(url)
        if table.storage.is_folder() and table.exists():
            return table, kind
    raise NotATarget(f"{target} holds no receipts (_rid) and is no table of protected photos: nothing was published there")


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
    table, kind = target_table(target)
    state = target if kind == "table" else table.url
    result = Verification()
    published: set[str] = set()
    for drop in table.drops():
        rows = 0
        for path, shard in sorted(table.live_files(drop).items()):
            rows += _verify_shard(table, Storage(target), kind, drop, path, shard, result, published)
            on_photo(result.photos)
        catalog = read_current(f"{Storage(state).url}/_rid" if kind == "table" else state, drop)
        if catalog is None:
            result.add("missing", drop, "catalog", "the drop's catalog is gone: rows cannot be recounted")
            continue
        if rows != catalog.photos:
            result.add("rows", drop, "table", f"{catalog.photos} photos came in, {rows} rows are there")
        _verify_budgets(table, Storage(target), kind, drop, catalog, source, result)
    _find_strangers(Storage(target), kind, published, result)
    return result


def _verify_shard(
    table: ProtectedTable,
    target: Storage,
    kind: str,
    drop: str,
    path: str,
    shard: ShardFile,
    result: Verification,
    published: set[str],
) -> int:
    """Re-hashes the photos of one shard and returns its number of rows."""
    count = 0
    try:
        with table.storage.open(path) as file:
            parquet = open_parquet(file)
            for batch in parquet.iter_batches(batch_size=ROWS, use_threads=False):
                for row in _rows(batch):
                    _verify_row(target, kind, drop, row, result, published)
                count += batch.num_rows
    except FileNotFoundError:
        result.add("missing", drop, path, f"the shard's file is gone, and {shard.rows} photos with it")
    except (OSError, pa.ArrowInvalid) as error:
        result.add("changed", drop, path, f"the shard's file cannot be read: {str(error).splitlines()[0][:200]}")
    else:
        if count != shard.rows:
            result.add("rows", drop, path, f"{shard.rows} rows were committed, {count} are there")
    return count


def _verify_row(
    target: Storage, kind: str, drop: str, row: dict[str, Any], result: Verification, published: set[str]
) -> None:
    result.photos += 1
    if row["status"] not in {status.value for status in Status}:
        result.add("rows", drop, row["key"], f"status {row['status']!r} is none")
    if row["output_sha256"] is None:
        return
    result.by_defender[drop, row["defender_digest"], row["policy_digest"]] += row["status"] == Status.PROTECTED
    if kind == "files":
        published.add(row["output_path"])
        try:
            data = target.read_bytes(row["output_path"])
        except FileNotFoundError:
            result.add("missing", drop, row["output_path"], "the published photo is gone")
            return
    else:
        data = _image_of(row) or b""
    result.published += 1
    if hashlib.sha256(data).hexdigest() != row["output_sha256"]:
        result.add("changed", drop, row["output_path"] or row["key"], "its sha256 is not that of its receipt")


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    names = ["key", "status", "output_path", "output_sha256", "defender_digest", "policy_digest"]
    images = [name for name in ("image", "content") if name in batch.schema.names and name not in names]
    rows: list[dict[str, Any]] = batch.select(names + images).to_pylist()
    return rows


def _image_of(row: dict[str, Any]) -> bytes | None:
    if row.get("image") is not None:
        data: bytes | None = row["image"]["bytes"]
        return data
    return row.get("content")


def _verify_budgets(
    table: ProtectedTable,
    target: Storage,
    kind: str,
    drop: str,
    catalog: DropCatalog,
    source: str | None,
    result: Verification,
) -> None:
    """Measures the budget of lossless photos again, one at a time, against their originals."""
    columns = ["key", "status", "format", "flags", "budget_levels", "output_path"]
    receipts = {
        row["key"]: row
        for row in table.read(drop, columns).to_pylist()
        if row["status"] == Status.PROTECTED and row["format"] in LOSSLESS and "quality_estimated" not in row["flags"]
    }
    if not receipts:
        return
    written = _written_photos(table, target, kind, drop, receipts)
    for row in read_catalog(catalog).to_pylist():
        if row["key"] not in receipts or row["key"] not in written:
            continue
        if source is not None:
            row["source_uri"] = row["source_uri"].replace(catalog.source, Storage(source).url, 1)
        try:
            (photo,) = read_photos([row])
            before = colour_planes(decode(photo.data or b"", READ_ALL).pixels)
            after = colour_planes(decode(written[row["key"]](), READ_ALL).pixels)
        except (InputChanged, OSError):
            result.budgets_unchecked += 1
            continue
        except PhotoRefused as refusal:
            result.add("unreadable", drop, row["key"], str(refusal))
            continue
        result.budgets_checked += 1
        worst = int(cv2.absdiff(before, after).max()) if before.shape == after.shape else 256
        if worst > receipts[row["key"]]["budget_levels"] or not np.any(before != after):
            result.add("budget", drop, row["key"], f"differs by {worst} levels; {receipts[row['key']]['budget_levels']} allowed")


def _written_photos(
    table: ProtectedTable, target: Storage, kind: str, drop: str, receipts: dict[str, dict[str, Any]]
) -> dict[str, Callable[[], bytes]]:
    """How to read each published photo: its file, or its row's bytes."""
    if kind == "files":
        there = {entry.path for entry in target.list_files()}
        return {
            key: (lambda path=row["output_path"]: target.read_bytes(path))
            for key, row in receipts.items()
            if row["output_path"] in there
        }
    schema = table.schema()
    assert schema is not None, "a table with receipts has a schema"
    image = "image" if "image" in schema.names else "content"
    rows = table.read(drop, ["key", image]).to_pylist()
    return {row["key"]: (lambda data=_image_of(row): data or b"") for row in rows if row["key"] in receipts}


def _find_strangers(target: Storage, kind: str, published: set[str], result: Verification) -> None:
    """Names files of a folder target that no receipt knows, and files that were being written."""
    for entry in target.list_files():
        name = PurePosixPath(entry.path)
        if entry.path.endswith(WRITING):
            result.add("half_written", "", entry.path, "a write was interrupted; run again, then delete this file")
        elif kind == "files" and name.parts[0] != "_rid" and entry.path not in published:
            what = "an image that was not protected here" if name.suffix.lower() in PHOTO_SUFFIXES else "a file"
            result.add("extra", "", entry.path, f"{what}: no receipt names it")

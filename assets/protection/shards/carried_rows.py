"""Rows of a drop's earlier shard files that still hold: the same photo under the same defender, policy and code.

When a photo joins a shard, or one of its outputs was lost, the others are carried over instead of protected again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from rid.assets.protection.shards.files import ShardColumns, ShardRow, shard_salt
from rid.resources.catalogs import open_parquet
from rid.resources.records import Receipt, SidecarReceipt, columns_of, read_records, sidecar_receipts
from rid.resources.schemas import Status
from rid.resources.storage import Storage


@dataclass(frozen=True)
class _Place:
    path: str
    row_group: int
    row: int


@dataclass(frozen=True)
class _EarlierRow:
    """The part of a row that says whether it may be carried over."""

    key: str
    input_sha256: str | None
    status: str
    reason: str | None


@dataclass(frozen=True)
class PublishedRow:
    """The part of a receipt that says whether its photo is done."""

    status: str
    reason: str | None
    output_path: str | None
    output_sha256: str | None
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


class CarriedRows:
    """Finds rows in earlier shard files; one row group of each file is in memory at a time."""

    def __init__(
        self,
        receipts: Storage,
        paths: Sequence[str],
        salt: str,
        *,
        drop: str,
        columns: ShardColumns,
        retry: Sequence[str] = (),
    ) -> None:
        """Indexes the rows of the files at `paths`.

        Args:
            receipts: the table's storage.
            paths: earlier shard files; one that is gone or was made by other work is passed over.
            salt: what decides the output of the present work.
            drop: its name.
            columns: of its files.
            retry: reasons whose rows are passed over; if there are none, every quarantined row is.
        """
        self._retry = retry
        self._receipts = receipts
        self._drop = drop
        self._columns = columns
        self._places: dict[tuple[str, str], _Place] = {}
        self._loaded: dict[str, tuple[int, list[ShardRow]]] = {}
        for path in paths:
            try:
                self._index(path, salt)
            except FileNotFoundError:
                continue

    def find(self, key: str, input_sha256: str | None) -> ShardRow | None:
        """Returns the earlier row of a photo, its image included, or None; one that was never read has none."""
        place = self._places.get((key, input_sha256)) if input_sha256 is not None else None
        return self._group(place)[place.row] if place is not None else None

    def _index(self, path: str, salt: str) -> None:
        with self._receipts.open(path) as file:
            parquet = open_parquet(file)
            if shard_salt(parquet) != salt:
                return
            for group in range(parquet.metadata.num_row_groups):
                rows = parquet.read_row_group(group, columns=list(columns_of(_EarlierRow)), use_threads=False)
                for i, row in enumerate(read_records(_EarlierRow, rows)):
                    held = row.status == Status.QUARANTINED and not self._retry
                    if row.input_sha256 is not None and not held and row.reason not in self._retry:
                        self._places[row.key, row.input_sha256] = _Place(path, group, i)

    def _group(self, place: _Place) -> list[ShardRow]:
        loaded = self._loaded.get(place.path)
        if loaded is None or loaded[0] != place.row_group:
            with self._receipts.open(place.path) as file:
                rows = open_parquet(file).read_row_group(place.row_group, use_threads=False)
                found = self._columns.read(rows, self._drop)
            self._loaded[place.path] = loaded = (place.row_group, found)
        return loaded[1]


def is_published(target: Storage, receipt: Receipt | PublishedRow) -> bool:
    """Says whether the files that a receipt names are in the target with their recorded sha256."""
    recorded = {receipt.output_path: receipt.output_sha256} if receipt.output_path is not None else {}
    recorded |= {sidecar.path: sidecar.sha256 for sidecar in receipt.sidecars}
    try:
        return all(hashlib.sha256(target.read_bytes(path)).hexdigest() == digest for path, digest in recorded.items())
    except FileNotFoundError:
        return False

"""Rows of a drop's earlier shard files that still hold: the same photo under the same defender, policy and code.

When a photo joins a shard, or one of its outputs was lost, the others are carried over instead of protected again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from rid.resources.catalogs import open_parquet
from rid.resources.schemas import Status
from rid.resources.storage import Storage

SALT_KEY = b"rid"  # schema metadata of a shard file: what decided its bytes beside the photos


@dataclass(frozen=True)
class _Place:
    path: str
    row_group: int
    row: int


def shard_salt(parquet: pq.ParquetFile) -> str:
    """Returns what a shard file says of the work that made it; "" if it says nothing."""
    metadata: dict[bytes, bytes] = parquet.schema_arrow.metadata or {}
    return metadata.get(SALT_KEY, b"").decode()


def recorded_salt(receipts: Storage, path: str) -> str:
    """What a shard file in a table's storage says of the work that made it."""
    with receipts.open(path) as file:
        return shard_salt(open_parquet(file))


class CarriedRows:
    """Finds rows in earlier shard files; one row group of each file is in memory at a time."""

    def __init__(self, receipts: Storage, paths: Sequence[str], salt: str, retry: Sequence[str] = ()) -> None:
        """Indexes the rows of the files at `paths`.

        Args:
            receipts: the table's storage.
            paths: earlier shard files; one that is gone or was made by other work is passed over.
            salt: what decides the output of the present work.
            retry: reasons whose rows are passed over; if there are none, every quarantined row is.
        """
        self._retry = retry
        self._receipts = receipts
        self._places: dict[tuple[str, str], _Place] = {}
        self._loaded: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        for path in paths:
            try:
                self._index(path, salt)
            except FileNotFoundError:
                continue

    def find(self, key: str, input_sha256: str | None) -> dict[str, Any] | None:
        """Returns the earlier row of a photo, its image included, or None."""
        place = self._places.get((key, input_sha256 or ""))
        return self._group(place)[place.row] if place is not None else None

    def _index(self, path: str, salt: str) -> None:
        with self._receipts.open(path) as file:
            parquet = open_parquet(file)
            if shard_salt(parquet) != salt:
                return
            for group in range(parquet.metadata.num_row_groups):
                columns = ["key", "input_sha256", "status", "reason"]
                rows = parquet.read_row_group(group, columns=columns, use_threads=False)
                for i, row in enumerate(rows.to_pylist()):
                    held = row["status"] == Status.QUARANTINED and not self._retry
                    if not held and row["reason"] not in self._retry:
                        self._places[row["key"], row["input_sha256"]] = _Place(path, group, i)

    def _group(self, place: _Place) -> list[dict[str, Any]]:
        loaded = self._loaded.get(place.path)
        if loaded is None or loaded[0] != place.row_group:
            with self._receipts.open(place.path) as file:
                rows = open_parquet(file).read_row_group(place.row_group, use_threads=False).to_pylist()
            self._loaded[place.path] = loaded = (place.row_group, rows)
        return loaded[1]


def image_bytes(row: dict[str, Any]) -> bytes | None:
    """The photo in a row of a protected table, in either of its forms; None if the row has none."""
    if row.get("image") is not None:
        data: bytes | None = row["image"]["bytes"]
        return data
    return row.get("content")


def is_published(target: Storage, row: dict[str, Any]) -> bool:
    """Whether the files that a receipt names are in the target with their recorded sha256."""
    recorded = {row["output_path"]: row["output_sha256"]}
    recorded |= {sidecar["path"]: sidecar["sha256"] for sidecar in row["sidecars"] or ()}
    try:
        return all(hashlib.sha256(target.read_bytes(path)).hexdigest() == digest for path, digest in recorded.items())
    except FileNotFoundError:
        return False

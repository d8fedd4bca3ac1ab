"""Traces of a photo in a target: what `rid forget` deletes, and how it proves that nothing is left."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from rid.resources.catalogs import open_parquet
from rid.resources.commits import ProtectedTable
from rid.resources.records import SidecarReceipt, sidecar_receipts
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage


@dataclass(frozen=True)
class Trace:
    """A file that still names or holds a photo.

    Attributes:
        kind: "receipt" (of the current table), "history" (a replaced shard, until the table is vacuumed), "catalog",
            "photo" or "report".
        uri: of the file.
    """

    kind: str
    uri: str


@dataclass(frozen=True)
class _NamedRow:
    """The part of a receipt that names files of a folder target."""

    key: str
    output_path: str | None
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


def drops_with_files(table: ProtectedTable) -> list[str]:
    """Returns the drops that have shard files in storage, committed or not."""
    folders = {entry.path.partition("/")[0] for entry in table.storage.list_files() if entry.path.startswith("drop=")}
    return sorted(check_drop_name(folder.removeprefix("drop=")) for folder in folders)


def shards_with(table: ProtectedTable, drop: str, keys: Set[str]) -> list[str]:
    """Returns paths of the drop's shard files that have a row of one of the photos, current or replaced."""
    paths = [entry.path for entry in table.storage.list_files(f"drop={drop}") if entry.path.endswith(".parquet")]
    return [path for path in paths if _has_key(table.storage, path, keys)]


def catalogs_with(storage: Storage, keys: Set[str]) -> list[str]:
    """Returns the names of a drop's catalogs that list one of the photos, old ones too."""
    paths = [entry.path for entry in storage.list_files() if entry.path.endswith(".parquet")]
    return [path for path in paths if _has_key(storage, path, keys)]


def names_in(table: ProtectedTable, paths: list[str], keys: Set[str]) -> frozenset[str]:
    """Returns the files of a folder target that the photos' rows in some shards name, sidecars included."""
    names: set[str] = set()
    for path in paths:
        for row in table.shard_records(path, _NamedRow):
            if row.key in keys:
                names |= {row.output_path} if row.output_path is not None else set()
                names |= {sidecar.path for sidecar in row.sidecars}
    return frozenset(names)


def _has_key(storage: Storage, path: str, keys: Set[str]) -> bool:
    with storage.open(path) as file:
        found = open_parquet(file).read(columns=["key"], use_threads=False).column("key").to_pylist()
    return not keys.isdisjoint(found)

"""XMP files beside photos: they go along with their photos to a folder target, without the pictures they may hold.

Editors write `photo.xmp` or `photo.jpg.xmp` beside `photo.jpg`. Such a file is no photo and has no status of its own:
it is named in the receipts of its photos, and it stays behind with them if all of them are quarantined.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rid.assets.catalog.names import name_faults
from rid.assets.catalog.sources import InputChanged
from rid.models.photo_files.metadata import clean_xmp
from rid.resources.schemas import CATALOG
from rid.resources.storage import FileEntry, Storage

MAX_BYTES = 16 * 2**20
SIDECAR_LEFT_OUT = "sidecar_left_out"  # a flag of `rid.models.photo_files.photos.FLAGS`


@dataclass(frozen=True)
class WrittenSidecar:
    """A sidecar as it goes to the target."""

    path: str
    data: bytes

    def receipt(self) -> dict[str, Any]:
        """Returns its entry in the receipt of a photo."""
        return {"path": self.path, "bytes": len(self.data), "sha256": hashlib.sha256(self.data).hexdigest()}


def match_sidecars(photos: Iterable[FileEntry], sidecars: Iterable[FileEntry]) -> dict[str, tuple[FileEntry, ...]]:
    """Returns the sidecars of each photo that has some, by the photo's path."""
    by_name: dict[str, list[FileEntry]] = defaultdict(list)
    for entry in sidecars:
        if entry.path.encode("utf-8", "replace").decode() != entry.path:
            continue  # a name that is no text is never read
        by_name[entry.path[: -len(".xmp")]].append(entry)
    found: dict[str, tuple[FileEntry, ...]] = {}
    if by_name:
        for photo in photos:
            beside = (*by_name.get(photo.path, ()), *by_name.get(_stem(photo.path), ()))
            if beside:
                found[photo.path] = tuple(sorted(beside, key=lambda entry: entry.path))
    return found


def read_sidecars(source: Storage, paths: Iterable[str]) -> list[dict[str, Any]] | None:
    """Returns the entries of a photo's catalog row; the sha256 of a file that cannot go along is null.

    Raises:
        InputChanged: if a listed file is gone.
    """
    return [{"path": path, "sha256": _digest(source, path)} for path in paths] or None


def mark_sidecar_names(rows: pa.Table, taken: Iterable[str]) -> pa.Table:
    """Takes the sha256 of those sidecars away whose name is unsafe or collides, so that they stay behind."""
    column = rows.column("sidecars").to_pylist()
    keys = rows.column("key").to_pylist()
    names = sorted({entry["path"] for entries in column for entry in entries or ()})
    if not names:
        return rows
    faults = name_faults([*keys, *names], taken)
    faulty = {names[i - len(keys)] for i in faults if i >= len(keys)}
    marked = [
        [entry | {"sha256": None if entry["path"] in faulty else entry["sha256"]} for entry in entries]
        if entries
        else None
        for entries in column
    ]
    field = CATALOG.field("sidecars")
    return rows.set_column(rows.schema.get_field_index("sidecars"), field, pa.array(marked, field.type))


def clean_sidecars(row: dict[str, Any]) -> Iterator[WrittenSidecar | str]:
    """Reads the sidecars of a photo's catalog row, and yields each as it goes to the target, or its flags.

    Raises:
        InputChanged: if one is not what the catalog says.
    """
    source = Storage(row["source_uri"].removesuffix(f"/{row['key']}"))
    for entry in row["sidecars"] or ():
        if entry["sha256"] is None:
            yield SIDECAR_LEFT_OUT
            continue
        try:
            data = source.read_bytes(entry["path"])
        except FileNotFoundError as error:
            raise InputChanged("a sidecar of the plan is gone from the source") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise InputChanged("a sidecar was overwritten since the drop was planned")
        block = clean_xmp(data)
        if block.renditions:
            yield "renditions_removed"
        yield WrittenSidecar(entry["path"], block.data) if block.data else SIDECAR_LEFT_OUT


def _stem(path: str) -> str:
    """A photo's path without its suffix."""
    return path[: path.rfind(".")]


def _digest(source: Storage, path: str) -> str | None:
    try:
        size = source.size(path)
        if size is None:
            raise FileNotFoundError(path)
        return hashlib.sha256(source.read_bytes(path)).hexdigest() if size <= MAX_BYTES else None
    except FileNotFoundError as error:
        raise InputChanged("a listed sidecar is gone") from error
    except PermissionError:
        return None

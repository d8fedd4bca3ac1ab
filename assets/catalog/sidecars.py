"""XMP files beside photos: they go along with their photos to a folder target, without the pictures they may hold.

Editors write `photo.xmp` or `photo.jpg.xmp` beside `photo.jpg`. Such a file is no photo and has no status of its own:
it is named in the receipts of its photos, and it stays behind with them if all of them are quarantined.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

import pyarrow as pa

from rid.assets.catalog.names import name_faults
from rid.assets.catalog.sources import InputChanged
from rid.models.photo_files.metadata import clean_xmp
from rid.resources.records import (
    CatalogRow,
    SidecarReceipt,
    SourceSidecar,
    read_records,
    source_sidecars,
    to_arrow,
)
from rid.resources.schemas import CATALOG
from rid.resources.storage import FileEntry, Storage

MAX_BYTES = 16 * 2**20
SIDECAR_LEFT_OUT = "sidecar_left_out"  # a flag of `rid.models.photo_files.photos.FLAGS`


@dataclass(frozen=True)
class WrittenSidecar:
    """A sidecar as it goes to the target."""

    path: str
    data: bytes

    def receipt(self) -> SidecarReceipt:
        """Returns its entry in the receipt of a photo."""
        return SidecarReceipt(self.path, len(self.data), hashlib.sha256(self.data).hexdigest())


@dataclass(frozen=True)
class _NamedPhoto:
    """The names that one row of a catalog takes."""

    key: str
    sidecars: tuple[SourceSidecar, ...] = source_sidecars()

    def without(self, faulty: Set[str]) -> _NamedPhoto:
        """Takes the sha256 away from sidecars of faulty names."""
        kept = (SourceSidecar(one.path, None) if one.path in faulty else one for one in self.sidecars)
        return _NamedPhoto(self.key, tuple(kept))


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


def read_sidecars(source: Storage, paths: Iterable[str]) -> tuple[SourceSidecar, ...]:
    """Returns the entries of a photo's catalog row; the sha256 of a file that cannot go along is null.

    Raises:
        InputChanged: if a listed file is gone.
    """
    return tuple(SourceSidecar(path, _digest(source, path)) for path in paths)


def mark_sidecar_names(rows: pa.Table, taken: Iterable[str]) -> pa.Table:
    """Takes the sha256 of those sidecars away whose name is unsafe or collides, so that they stay behind."""
    if rows.column("sidecars").null_count == rows.num_rows:
        return rows
    photos = list(read_records(_NamedPhoto, rows))
    names = sorted({sidecar.path for photo in photos for sidecar in photo.sidecars})
    faults = name_faults([*(photo.key for photo in photos), *names], taken)
    faulty = {names[i - len(photos)] for i in faults if i >= len(photos)}
    schema = pa.schema([CATALOG.field("sidecars")])
    marked = to_arrow([photo.without(faulty) for photo in photos], schema)
    return rows.set_column(rows.schema.get_field_index("sidecars"), schema.field(0), marked.column(0))


def clean_sidecars(row: CatalogRow) -> Iterator[WrittenSidecar | str]:
    """Reads the sidecars of a photo's catalog row, and yields each as it goes to the target, or its flags.

    Raises:
        InputChanged: if one is not what the catalog says.
    """
    source = Storage(row.source_uri.removesuffix(f"/{row.key}"))
    for sidecar in row.sidecars:
        if sidecar.sha256 is None:
            yield SIDECAR_LEFT_OUT
            continue
        try:
            data = source.read_bytes(sidecar.path)
        except FileNotFoundError as error:
            raise InputChanged("a sidecar of the plan is gone from the source") from error
        if hashlib.sha256(data).hexdigest() != sidecar.sha256:
            raise InputChanged("a sidecar was overwritten since the drop was planned")
        block = clean_xmp(data)
        if block.renditions:
            yield "renditions_removed"
        yield WrittenSidecar(sidecar.path, block.data) if block.data else SIDECAR_LEFT_OUT


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

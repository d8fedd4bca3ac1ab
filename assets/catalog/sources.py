"""Reads the photos of a drop on a worker: image files, or rows of Parquet files."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from rid.assets.catalog.uris import UriNotAllowed, read_uri
from rid.resources.catalogs import (
    ParquetLayout,
    StoredPhoto,
    iter_rows,
    named,
    open_parquet,
    parquet_layout,
    stored_photos,
)
from rid.resources.records import CatalogRow
from rid.resources.schemas import Reason
from rid.resources.storage import Storage, StorageUrlError


class InputChanged(RuntimeError):
    """A photo is not what the catalog says: it was overwritten or removed since. Planning again settles it."""


@dataclass(frozen=True)
class SourcePhoto:
    """One photo that was read.

    Attributes:
        row: its catalog row.
        data: its bytes, or None with a reason.
        reason: why there are no bytes.
        columns: its pass-through columns, one row; None for image files.
        name: what its Parquet row calls it, which need not be unique; for image files None.
    """

    row: CatalogRow
    data: bytes | None
    reason: Reason | None = None
    columns: pa.RecordBatch | None = None
    name: str | None = None


def read_photos(rows: Iterable[CatalogRow], allowed_prefixes: Sequence[str] | None = None) -> Iterator[SourcePhoto]:
    """Yields the photos of catalog rows, in their order; at most one batch of Parquet rows is in memory.

    Args:
        rows: of one catalog.
        allowed_prefixes: where photos that a `uri` column names may lie; None trusts the catalog, which was made under
            them.

    Raises:
        InputChanged: if a file is gone, or a photo's sha256 is not the catalog's.
    """
    listed = list(rows)
    if listed and listed[0].row_group is not None:
        yield from _read_parquet(listed, allowed_prefixes)
        return
    for row in listed:
        yield _checked(SourcePhoto(row, *_read_file(row)))


def read_column(rows: Sequence[CatalogRow], name: str) -> list[Any]:
    """Returns one pass-through column of catalog rows, in their order; no photo is read.

    Args:
        rows: of one catalog.
        name: of the column.

    Raises:
        ValueError: if the photos have no such column; the sentence names those that they have.
    """
    groups: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(rows):
        if row.row_group is None or row.row_in_group is None:
            raise ValueError(f"the photos are image files and have no column {name!r}: give each person a folder")
        groups[row.source_uri][row.row_group].append((place, row.row_in_group))
    values: list[Any] = [None] * len(rows)
    for uri, wanted in groups.items():
        parent, file_name = Storage(uri).as_parent_and_name()
        with parent.open(file_name) as file, named(uri):
            parquet = open_parquet(file)
            carried = parquet_layout(parquet.schema_arrow).passthrough.names
            if name not in carried:
                raise ValueError(f"the photos have no column {name!r}: they have {', '.join(carried) or 'none'}")
            for row_group, places in wanted.items():
                column = [value for rows in iter_rows(parquet, row_group, [name]) for value in rows.column(name)]
                for place, position in places:
                    values[place] = column[position].as_py()
    return values


def read_original(row: CatalogRow | None) -> bytes | None:
    """Returns the bytes of one catalog row, or None if they cannot be read any more or are others now."""
    if row is None:
        return None
    try:
        return next(iter(read_photos([row]))).data
    except (InputChanged, OSError, ValueError):
        return None


def row_digest(columns: pa.RecordBatch) -> str:
    """sha256 of one row of pass-through columns: their schema and values."""
    values = json.dumps(columns.to_pylist(), default=str, sort_keys=True)
    return hashlib.sha256(f"{columns.schema.to_string(show_schema_metadata=False)}\n{values}".encode()).hexdigest()


def iter_parquet_photos(
    file: Any, row_group: int, layout: ParquetLayout
) -> Iterator[tuple[StoredPhoto, pa.RecordBatch | None]]:
    """Yields each row of a row group, and its pass-through columns if there are any."""
    parquet = open_parquet(file)
    names = layout.passthrough.names
    first = 0
    for batch in iter_rows(parquet, row_group, layout.photo_columns + names):
        passthrough = batch.select(names) if names else None
        for photo in stored_photos(batch, layout, first):
            yield photo, passthrough.slice(photo.position - first, 1) if passthrough is not None else None
        first += batch.num_rows


def _read_file(row: CatalogRow) -> tuple[bytes | None, Reason | None]:
    if row.reason is not None:
        return None, Reason(row.reason)
    try:
        return read_uri(row.source_uri), None
    except FileNotFoundError as error:
        raise InputChanged("a photo of the plan is gone from the source") from error
    except PermissionError:
        return None, Reason.UNREADABLE


def _read_parquet(rows: list[CatalogRow], allowed_prefixes: Sequence[str] | None) -> Iterator[SourcePhoto]:
    """Reads each row group once, forward: a shard's rows are a run of the file in source order."""
    groups: dict[tuple[str, int], dict[int, CatalogRow]] = defaultdict(dict)
    for row in rows:
        assert row.row_group is not None, "a row of Parquet has a place"
        assert row.row_in_group is not None, "a row of Parquet has a place"
        groups[row.source_uri, row.row_group][row.row_in_group] = row
    for (uri, row_group), wanted in groups.items():
        parent, file_name = Storage(uri).as_parent_and_name()
        try:
            opened = parent.open(file_name)
        except FileNotFoundError as error:
            raise InputChanged("a Parquet file of the plan is gone from the source") from error
        with opened as file, named(uri):
            layout = parquet_layout(open_parquet(file).schema_arrow)
            last = max(wanted)
            for stored, columns in iter_parquet_photos(file, row_group, layout):
                if stored.position in wanted:
                    yield _checked(_parquet_photo(wanted[stored.position], stored, columns, allowed_prefixes))
                if stored.position >= last:
                    break


def _parquet_photo(
    row: CatalogRow, stored: StoredPhoto, columns: pa.RecordBatch | None, allowed_prefixes: Sequence[str] | None
) -> SourcePhoto:
    photo = SourcePhoto(row, stored.data, None, columns, stored.name)
    if row.reason is not None:
        return replace(photo, data=None, reason=Reason(row.reason))
    if photo.data is None and stored.uri is not None:
        try:
            return replace(photo, data=read_uri(stored.uri, allowed_prefixes))
        except UriNotAllowed:
            return replace(photo, reason=Reason.URI_NOT_ALLOWED)
        except (StorageUrlError, PermissionError, FileNotFoundError):
            return replace(photo, reason=Reason.UNREADABLE)
    return photo if photo.data is not None else replace(photo, reason=Reason.EMPTY)


def _checked(photo: SourcePhoto) -> SourcePhoto:
    if photo.data is not None and hashlib.sha256(photo.data).hexdigest() != photo.row.input_sha256:
        raise InputChanged("a photo was overwritten since the drop was planned")
    if photo.columns is not None and row_digest(photo.columns) != photo.row.columns_sha256:
        raise InputChanged("a row's columns changed since the drop was planned")
    return photo

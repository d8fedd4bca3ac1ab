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
from rid.resources.catalogs import ParquetLayout, iter_rows, named, open_parquet, parquet_layout, stored_photos
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

    row: dict[str, Any]
    data: bytes | None
    reason: Reason | None = None
    columns: pa.RecordBatch | None = None
    name: str | None = None


def read_photos(rows: Iterable[dict[str, Any]], allowed_prefixes: Sequence[str] | None = None) -> Iterator[SourcePhoto]:
    """Yields the photos of catalog rows, in their order; at most one batch of Parquet rows is in memory.

    Args:
        rows: of one catalog.
        allowed_prefixes: where photos that a `uri` column names may lie; None trusts the catalog, which was made under
            them.

    Raises:
        InputChanged: if a file is gone, or a photo's sha256 is not the catalog's.
    """
    listed = list(rows)
    if listed and listed[0]["row_group"] is not None:
        yield from _read_parquet(listed, allowed_prefixes)
        return
    for row in listed:
        yield _checked(SourcePhoto(row, *_read_file(row)))


def read_original(row: dict[str, Any] | None) -> bytes | None:
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
) -> Iterator[tuple[int, str | None, bytes | None, str | None, pa.RecordBatch | None]]:
    """Yields (position, name, bytes, uri, pass-through row) for each row of a row group."""
    parquet = open_parquet(file)
    names = layout.passthrough.names
    first = 0
    for batch in iter_rows(parquet, row_group, layout.photo_columns + names):
        passthrough = batch.select(names) if names else None
        for photo in stored_photos(batch, layout, first):
            columns = passthrough.slice(photo.position - first, 1) if passthrough is not None else None
            yield photo.position, photo.name, photo.data, photo.uri, columns
        first += batch.num_rows


def _read_file(row: dict[str, Any]) -> tuple[bytes | None, Reason | None]:
    if row["reason"] is not None:
        return None, Reason(row["reason"])
    try:
        return read_uri(row["source_uri"]), None
    except FileNotFoundError as error:
        raise InputChanged("a photo of the plan is gone from the source") from error
    except PermissionError:
        return None, Reason.UNREADABLE


def _read_parquet(rows: list[dict[str, Any]], allowed_prefixes: Sequence[str] | None) -> Iterator[SourcePhoto]:
    """Reads each row group once, forward: a shard's rows are a run of the file in source order."""
    groups: dict[tuple[str, int], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["source_uri"], row["row_group"]][row["row_in_group"]] = row
    for (uri, row_group), wanted in groups.items():
        parent, file_name = Storage(uri).as_parent_and_name()
        try:
            opened = parent.open(file_name)
        except FileNotFoundError as error:
            raise InputChanged("a Parquet file of the plan is gone from the source") from error
        with opened as file, named(uri):
            layout = parquet_layout(open_parquet(file).schema_arrow)
            last = max(wanted)
            for position, name, data, reference, columns in iter_parquet_photos(file, row_group, layout):
                if position in wanted:
                    photo = _parquet_photo(wanted[position], data, reference, columns, allowed_prefixes)
                    yield _checked(replace(photo, name=name))
                if position >= last:
                    break


def _parquet_photo(
    row: dict[str, Any],
    data: bytes | None,
    reference: str | None,
    columns: pa.RecordBatch | None,
    allowed_prefixes: Sequence[str] | None,
) -> SourcePhoto:
    if row["reason"] is not None:
        return SourcePhoto(row, None, Reason(row["reason"]), columns)
    if data is None and reference is not None:
        try:
            data = read_uri(reference, allowed_prefixes)
        except UriNotAllowed:
            return SourcePhoto(row, None, Reason.URI_NOT_ALLOWED, columns)
        except (StorageUrlError, PermissionError, FileNotFoundError):
            return SourcePhoto(row, None, Reason.UNREADABLE, columns)
    return SourcePhoto(row, data, None if data is not None else Reason.EMPTY, columns)


def _checked(photo: SourcePhoto) -> SourcePhoto:
    if photo.data is not None and hashlib.sha256(photo.data).hexdigest() != photo.row["input_sha256"]:
        raise InputChanged("a photo was overwritten since the drop was planned")
    if photo.columns is not None and row_digest(photo.columns) != photo.row["columns_sha256"]:
        raise InputChanged("a row's columns changed since the drop was planned")
    return photo

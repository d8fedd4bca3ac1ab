"""Rows of catalogs and receipts as typed records, and the one way between records and Arrow.

`CatalogRow` and `Receipt` have a field for each column of `schemas.CATALOG` and `schemas.RECEIPTS`. Whoever reads a few
columns alone declares a frozen dataclass of those fields: `columns_of` says what to read, `read_records` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SLICE = 8192  # rows whose values are held at once
RECORD = "record"  # in a field's metadata: the dataclass of its structs; an empty list of them is null in Arrow

Record = TypeVar("Record", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class SourceSidecar:
    """An XMP file beside a photo of a source; one without a sha256 cannot go along."""

    path: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class SidecarReceipt:
    """An XMP file that went along with a published photo."""

    path: str
    bytes: int
    sha256: str


def source_sidecars() -> Any:
    """The field `sidecars` of a catalog's row."""
    return field(default=(), metadata={RECORD: SourceSidecar})


def sidecar_receipts() -> Any:
    """The field `sidecars` of a receipt."""
    return field(default=(), metadata={RECORD: SidecarReceipt})


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRow:
    """One photo that came in; `schemas.CATALOG` says what the fields mean."""

    key: str
    source_uri: str
    row_group: int | None = None
    row_in_group: int | None = None
    identity: str
    bytes_in: int
    input_sha256: str | None = None
    columns_sha256: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    mark: str | None = None
    sidecars: tuple[SourceSidecar, ...] = source_sidecars()
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The outcome for one photo; `schemas.RECEIPTS` says what the fields mean."""

    key: str
    drop: str
    status: str
    reason: str | None = None
    detail: str | None = None
    flags: tuple[str, ...] = ()
    source_uri: str
    output_path: str | None = None
    format: str | None = None
    bytes_in: int
    bytes_out: int | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    pixels_sha256: str | None = None
    work_key: str
    defender_digest: str
    policy_digest: str
    engine: str
    budget_levels: int
    linf_levels: int | None = None
    survival_gain: float | None = None
    survival_cosine: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    smooth_levels: float | None = None
    visible_share: float | None = None
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


def columns_of(kind: type[Any]) -> tuple[str, ...]:
    """Returns the names of a record's columns."""
    return tuple(one.name for one in fields(kind))


def read_records(kind: type[Record], rows: pa.Table | pa.RecordBatch, **constants: Any) -> Iterator[Record]:
    """Yields the rows of a table as records; columns that the record lacks are passed over.

    Args:
        kind: a dataclass whose fields are columns.
        rows: those columns; one that they lack, because an earlier version wrote them, has the field's default.
        constants: values of fields that are no column, such as the drop, which is a partition.

    Raises:
        ValueError: if a column without a default is missing.
    """
    wanted = [one for one in fields(kind) if one.name not in constants]
    there = [one for one in wanted if one.name in rows.schema.names]
    for one in wanted:
        if one not in there and one.default is MISSING:
            raise ValueError(f"the rows have no column {one.name!r}; they have {', '.join(rows.schema.names)}")
    names = [one.name for one in there]
    for start in range(0, rows.num_rows, SLICE):
        part = rows.slice(start, SLICE)
        columns = [_values(one, part.column(one.name)) for one in there]
        for values in zip(*columns, strict=True) if columns else repeat((), part.num_rows):
            yield kind(**constants, **dict(zip(names, values, strict=True)))


def column_values(record: Any) -> dict[str, Any]:
    """Returns a record's values by column, as Arrow takes them."""
    return {one.name: _plain(one, getattr(record, one.name)) for one in fields(record)}


def to_arrow(records: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """Returns records as a table of a schema's columns."""
    return pa.Table.from_pylist([column_values(record) for record in records], schema=schema)


def _values(one: Field[Any], column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column as its field has them."""
    values: list[Any] = column.to_pylist()
    if one.default != ():
        return values
    record = one.metadata.get(RECORD)
    if record is None:
        return [tuple(value or ()) for value in values]
    return [tuple(record(**struct) for struct in value) if value else () for value in values]


def _plain(one: Field[Any], value: Any) -> Any:
    """The value of a field as Arrow takes it."""
    if not isinstance(value, tuple):
        return value
    if RECORD not in one.metadata:
        return list(value)
    return [column_values(record) for record in value] or None

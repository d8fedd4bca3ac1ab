"""Columns of a Parquet source that hold pictures beside the photo, and would be published as they came.

A column is protected with its row's photo, or passed as it came, if an operator says so; any other column that holds a
picture is refused. What holds one is said by the type (a struct with binary `bytes`, alone or in lists) or by the
values: each binary value in whatever type is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rid.models.photo_files.images import OTHER_FORMATS, sniff
from rid.resources.catalogs import SourceListing, iter_rows, named, open_parquet

BMP = (b"BM", slice(6, 10))  # two letters alone would be found in many numbers: four bytes that are 0 belong to it


class PicturesNotNamed(ValueError):
    """Columns hold pictures, and nobody said what becomes of them."""


@dataclass(frozen=True)
class PictureColumns:
    """The columns beside the photo that hold pictures, and what becomes of them.

    Attributes:
        protected: their pictures are protected with the row's photo.
        passed: they go to the output as they came.
    """

    protected: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = sorted(set(self.protected) & set(self.passed))
        if both:
            raise ValueError(f"column {both[0]!r} is to be protected and to be passed: name it once")

    def of(self, listing: SourceListing) -> PictureColumns | None:
        """Returns those of a source, sorted; None if it has no column that could hold pictures.

        Raises:
            ValueError: if a column is named that the source does not have, or whose pictures cannot be replaced.
        """
        schema = listing.layout.passthrough if listing.layout is not None else pa.schema([])
        photo = listing.layout.photo_columns if listing.layout is not None else []
        for name in (*self.protected, *self.passed):
            if name not in [*schema.names, *photo]:
                there = ", ".join([*photo, *schema.names]) or "no columns, since it is of image files"
                raise ValueError(f"{listing.base.url} has no column {name!r}; it has {there}")
        found = PictureColumns(
            tuple(sorted({name for name in self.protected if name not in photo})),
            tuple(sorted({name for name in self.passed if name not in photo})),
        )
        for name in found.protected:
            if not _replaceable(schema.field(name).type):
                raise ValueError(
                    f"the pictures in column {name!r} of type {schema.field(name).type} cannot be protected: give "
                    "binary, a struct whose one binary member is 'bytes', or lists of these"
                )
        return found if any(holds_binary(column.type) for column in schema) else None

    def in_schema(self, schema: pa.Schema) -> list[str]:
        """Returns the protected columns that a schema has."""
        return [name for name in self.protected if name in schema.names]

    def open_in(self, schema: pa.Schema) -> list[str]:
        """Returns the columns of a schema that could hold pictures and are not named."""
        taken = {*self.protected, *self.passed}
        return [column.name for column in schema if holds_binary(column.type) and column.name not in taken]


NONE_NAMED = PictureColumns()


def check_first_rows(listing: SourceListing, columns: PictureColumns) -> None:
    """Looks at the types and the first rows of a Parquet source before anything is read; the index looks at the rest.

    Raises:
        PicturesNotNamed: naming the columns.
    """
    if listing.layout is None:
        return
    schema = listing.layout.passthrough
    wanted = columns.open_in(schema)
    for entry in listing.files if wanted else ():
        with listing.base.open(entry.path) as file, named(listing.base.uri(entry.path)):
            parquet = open_parquet(file)
            if parquet.metadata.num_row_groups:
                rows = next(iter_rows(parquet, 0, wanted), None)
                refuse(columns_with_pictures(rows, wanted) if rows is not None else [], listing.base.uri(entry.path))
                return


def refuse(found: Iterable[str], uri: str) -> None:
    """Raises PicturesNotNamed if there are such columns."""
    names = ", ".join(repr(name) for name in sorted(set(found)))
    if names:
        raise PicturesNotNamed(
            f"{uri} holds pictures beside its photos in {names}: they would be published unprotected; name each with "
            "--image-column to protect it, or with --pass to publish it as it is (image_columns and pass_columns in a "
            "run's configuration)"
        )


def columns_with_pictures(rows: pa.Table | pa.RecordBatch, names: Iterable[str]) -> list[str]:
    """Returns those of some columns that hold pictures, by their type or by one of their values."""
    return [
        name
        for name in names
        if _is_image(rows.schema.field(name).type)
        or any(is_picture(data) for value in rows.column(name).to_pylist() for data in _binaries(value))
    ]


def is_picture(data: bytes) -> bool:
    """Returns whether bytes begin like a picture of any format, also of those that cannot be protected."""
    letters, zeros = BMP
    if data.startswith(letters):
        return len(data) > 26 and not any(data[zeros])
    return sniff(data) is not None or any(data.startswith(starts, offset) for offset, starts in OTHER_FORMATS.values())


def pictures_in(values: Sequence[Any]) -> Iterator[tuple[str, bytes]]:
    """Yields name and bytes of each picture in values of protected columns, in a fixed order; a name may be ""."""
    for value in values:
        if isinstance(value, bytes):
            yield "", value
        elif isinstance(value, dict) and value["bytes"] is not None:
            yield str(value.get("path") or ""), value["bytes"]
        elif isinstance(value, list):
            yield from pictures_in(value)


def with_pictures(value: Any, picture: Callable[[], bytes]) -> Any:
    """Returns a value of a protected column with other pictures, asked for in the order of `pictures_in`."""
    if isinstance(value, bytes):
        return picture()
    if isinstance(value, dict) and value["bytes"] is not None:
        return value | {"bytes": picture()}
    if isinstance(value, list):
        return [with_pictures(one, picture) for one in value]
    return value


def holds_binary(kind: pa.DataType) -> bool:
    """Returns whether values of a type can have bytes anywhere in them."""
    if pa.types.is_dictionary(kind):
        return holds_binary(kind.value_type)
    if pa.types.is_nested(kind):
        return any(holds_binary(kind.field(i).type) for i in range(kind.num_fields))
    return _is_bytes(kind)


def _binaries(value: Any) -> Iterator[bytes]:
    """Yields all bytes in a value, at any depth; maps are lists of pairs here."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _binaries(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _binaries(one)


def _is_image(kind: pa.DataType) -> bool:
    """Returns whether a type is that of a picture: a struct with binary `bytes`, or lists of such."""
    if _is_list(kind):
        return _is_image(kind.value_type)
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)


def _replaceable(kind: pa.DataType) -> bool:
    """Returns whether every binary in values of a type is a picture with a place of its own."""
    if _is_list(kind):
        return _replaceable(kind.value_type)
    if pa.types.is_struct(kind):
        return _is_image(kind) and sum(holds_binary(member.type) for member in kind) == 1
    return _is_bytes(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

"""The sources of photos: a folder or prefix of image files, or Parquet in one of three conventions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rid.resources.schemas import PHOTO_SUFFIXES, PICTURES_COLUMN, RECEIPTS, SIDECAR_SUFFIX, UNSUPPORTED_SUFFIXES
from rid.resources.storage import FileEntry, Storage

MAX_ROW_GROUP_BYTES = 4 * 2**30  # decoded, as the footer states it: a Parquet bomb is refused before it is read
MAX_BATCH_BYTES = 2**30  # decoded, as found: the footer of a bomb may state less
CHUNK_ROWS = 16
READ_BUFFER = 2**20  # bytes; without one a whole column chunk is held: 580 MB instead of 61 MB for 1,000 x 500 kB
PHOTO_COLUMNS = {"image": ["image"], "content": ["path", "content"], "uri": ["uri"]}
ADVICE = {
    "halffloat": "float32",
    "uint8": "int16",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64 or decimal128(20, 0)",
    "time32": "int32",
    "time64": "int64",
    "duration": "int64",
    "timestamp": "timestamp in microseconds, in UTC or without a time zone",
    "fixed_size_binary": "binary",
    "fixed_size_list": "list",
    "date64": "date32",
    "decimal": "decimal128 with a scale of 0 or more",
    "null": "string, or drop the column",
}


class ParquetDamaged(ValueError):
    """A Parquet file whose pages cannot be decoded; reading it again may help if it was damaged on its way."""

    transient = True


@dataclass(frozen=True)
class ParquetLayout:
    """The layout of photos in a Parquet file.

    Attributes:
        kind: "image" for a Hugging Face struct<bytes, path>, "content" for Spark's binaryFile, "uri" for references.
        passthrough: the columns that go to the output unchanged.
        metadata: schema metadata to carry along, such as `huggingface`.
    """

    kind: Literal["image", "content", "uri"]
    passthrough: pa.Schema
    metadata: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def photo_columns(self) -> list[str]:
        """The columns that hold the photo and its name."""
        return PHOTO_COLUMNS[self.kind]


@dataclass(frozen=True)
class SourceListing:
    """The listing of a source.

    Attributes:
        kind: "files", one photo a file, or "parquet".
        base: what the entries' paths are relative to.
        files: the photo files, or the Parquet files.
        ignored: number of files that are neither.
        layout: of the Parquet files.
        sidecars: XMP files, which belong to photos or not.
    """

    kind: Literal["files", "parquet"]
    base: Storage
    files: list[FileEntry]
    ignored: int
    layout: ParquetLayout | None = None
    sidecars: tuple[FileEntry, ...] = ()


@dataclass(frozen=True)
class StoredPhoto:
    """One row of a Parquet source.

    Attributes:
        position: of the row in its row group.
        name: what the row calls the photo, or None.
        data: the photo's bytes, or None if the row has none.
        uri: where the photo lies instead, or None.
    """

    position: int
    name: str | None
    data: bytes | None
    uri: str | None


def list_source(source: Storage) -> SourceListing:
    """Lists a folder, a prefix, a Parquet file or a folder of Parquet files.

    Hidden entries and those under a folder that begins with `_` or `.` are left out.

    Raises:
        FileNotFoundError: if there is nothing at the URL.
        ValueError: if it mixes photos and Parquet, a Parquet file cannot be read, or Parquet files differ in layout.
    """
    if source.url.endswith(".parquet") and not source.is_folder():
        parent, name = source.as_parent_and_name()
        size = parent.size(name)
        if size is None:
            raise FileNotFoundError(f"there is no file at {source.url}")
        return _parquet_listing(parent, [FileEntry(name, size, parent.identity(name))], 0)
    if not source.is_folder():
        raise FileNotFoundError(
            f"there is no folder, prefix or Parquet file at {source.url}: for one photo, give its folder"
        )
    photos, parquet, sidecars, ignored = [], [], [], 0
    for entry in source.list_files():
        if any(part.startswith((".", "_")) for part in entry.path.split("/")):
            continue
        suffix = "." + entry.path.rpartition(".")[2].lower()
        if suffix in PHOTO_SUFFIXES or suffix in UNSUPPORTED_SUFFIXES:
            photos.append(entry)
        elif suffix == ".parquet":
            parquet.append(entry)
        elif suffix == SIDECAR_SUFFIX:
            sidecars.append(entry)
        else:
            ignored += 1
    if photos and parquet:
        raise ValueError(
            f"{source.url} holds {len(photos)} image files and {len(parquet)} Parquet files: give them as two drops"
        )
    if parquet:
        return _parquet_listing(source, parquet, ignored + len(sidecars))
    return SourceListing("files", source, photos, ignored, sidecars=tuple(sidecars))


def _parquet_listing(base: Storage, files: list[FileEntry], ignored: int) -> SourceListing:
    first: ParquetLayout | None = None
    for entry in files:
        layout = _layout_of(base, entry.path)
        first = first or layout
        if layout.kind != first.kind or not layout.passthrough.equals(first.passthrough):
            raise ValueError(f"{entry.path} and {files[0].path} have different columns: give them as two drops")
    return SourceListing("parquet", base, files, ignored, first)


def _layout_of(base: Storage, path: str) -> ParquetLayout:
    with base.open(path) as file:
        try:
            schema = open_parquet(file).schema_arrow
        except (pa.ArrowException, OSError) as error:
            if is_of_storage(error):
                raise
            reason = str(error).strip().splitlines()[0][:200]
            raise ValueError(f"{base.uri(path)} cannot be read as Parquet ({reason}): replace or remove it") from error
    return parquet_layout(schema)


def parquet_layout(schema: pa.Schema) -> ParquetLayout:
    """Finds the photo columns and checks that the others can be carried.

    Raises:
        ValueError: naming the column that is missing, clashes with a receipt column, or has a type that the table
            format cannot keep.
    """
    kind = _photo_kind(schema)
    taken = PHOTO_COLUMNS[kind]
    passthrough = [column for column in schema if column.name not in taken]
    reserved = {name.lower() for name in [*RECEIPTS.names, PICTURES_COLUMN, "image", *taken]}
    seen: set[str] = set()
    for column in passthrough:
        folded = column.name.lower()
        if not column.name or folded in seen:
            raise ValueError(f"column {column.name!r} has no name of its own (case does not count): rename it")
        if folded in reserved:
            raise ValueError(f"column {column.name!r} clashes with a column of the receipts: rename it in the source")
        if not _delta_keeps(column.type):
            raise ValueError(
                f"column {column.name!r} has type {column.type}, which the table format cannot keep: "
                f"cast it to {_advice(column.type)}"
            )
        seen.add(folded)
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key == b"huggingface"}
    return ParquetLayout(kind, pa.schema(passthrough), metadata)


def _photo_kind(schema: pa.Schema) -> Literal["image", "content", "uri"]:
    names = set(schema.names)
    if "image" in names and pa.types.is_struct(schema.field("image").type):
        image = schema.field("image").type
        if image.get_field_index("bytes") < 0 or not _is_bytes(image.field("bytes").type):
            raise ValueError(
                "column 'image' is a struct without binary 'bytes': the Hugging Face form struct<bytes, path> is read"
            )
        return "image"
    if {"path", "content"} <= names:
        if not _is_bytes(schema.field("content").type) or not _is_text(schema.field("path").type):
            raise ValueError(
                "columns 'path' and 'content' have to be string and binary, as Spark's binaryFile has them"
            )
        return "content"
    if "uri" in names:
        if not _is_text(schema.field("uri").type):
            raise ValueError(f"column 'uri' has type {schema.field('uri').type}: it has to be string")
        return "uri"
    found = ", ".join(sorted(names))[:500]
    raise ValueError(f"no photo column among {found}: give image: struct<bytes, path>, path and content, or uri")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _delta_keeps(kind: pa.DataType) -> bool:
    """Returns whether a Delta table gives values of a type back unchanged, as tried with deltalake 1.6."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _delta_keeps(kind.value_type)
    if types.is_struct(kind):
        return kind.num_fields > 0 and all(_delta_keeps(member.type) for member in kind)
    if types.is_map(kind):
        return _delta_keeps(kind.key_type) and _delta_keeps(kind.item_type)
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    if types.is_timestamp(kind):
        return kind.unit in ("us", "ms") and kind.tz in (None, "UTC")
    if types.is_decimal128(kind):
        return bool(kind.scale >= 0)
    numbers = types.is_signed_integer(kind) or types.is_float32(kind) or types.is_float64(kind)
    return bool(numbers or types.is_boolean(kind) or types.is_date32(kind) or _is_text(kind) or _is_bytes(kind))


def _advice(kind: pa.DataType) -> str:
    """A type to cast to, for the first part of a type that the table format cannot keep."""
    for name, advice in ADVICE.items():
        if name in str(kind):
            return advice
    return "string"


def open_parquet(file: Any) -> pq.ParquetFile:
    """Opens a Parquet file so that pages are read one by one and a flipped byte is found.

    The latter needs checksums by the writer. Spark's 96-bit timestamps are read in microseconds, as Spark has them.
    """
    return pq.ParquetFile(
        file,
        page_checksum_verification=True,
        pre_buffer=False,
        buffer_size=READ_BUFFER,
        coerce_int96_timestamp_unit="us",
    )


def check_row_group(parquet: pq.ParquetFile, row_group: int) -> None:
    """Raises ValueError if a row group says that it decodes to more than MAX_ROW_GROUP_BYTES."""
    stated = parquet.metadata.row_group(row_group).total_byte_size
    if stated > MAX_ROW_GROUP_BYTES:
        raise ValueError(
            f"row group {row_group} decodes to {stated} bytes; {MAX_ROW_GROUP_BYTES} are allowed: write smaller ones"
        )


def iter_rows(parquet: pq.ParquetFile, row_group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields one row group in batches of CHUNK_ROWS, so that one batch's photos are in memory at a time.

    Raises:
        ValueError: if the row group states, or turns out, to decode to more than is allowed.
        ParquetDamaged: if it cannot be decoded.
    """
    check_row_group(parquet, row_group)
    for batch in _decoded(parquet, row_group, columns):
        if batch.nbytes > MAX_BATCH_BYTES:
            raise ValueError(
                f"{batch.num_rows} rows of row group {row_group} decode to {batch.nbytes} bytes; "
                f"{MAX_BATCH_BYTES} are allowed: remove what is not a photo"
            )
        yield batch


def _decoded(parquet: pq.ParquetFile, row_group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    batches = parquet.iter_batches(batch_size=CHUNK_ROWS, row_groups=[row_group], columns=columns, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            if is_of_storage(error):
                raise
            reason = str(error).strip().splitlines()[0][:200]
            raise ParquetDamaged(f"row group {row_group} cannot be decoded ({reason}): replace the file") from error
        if batch is None:
            return
        yield batch


def is_of_storage(error: BaseException) -> bool:
    """Returns whether an error of the Parquet reader is a fault of the storage: those have a number or a type.

    Errors of the reader itself are plain OSErrors and Arrow's own.
    """
    return isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError)


@contextlib.contextmanager
def named(uri: str) -> Iterator[None]:
    """Puts the name of the file in front of what is said of its content."""
    try:
        yield
    except ParquetDamaged as error:
        raise ParquetDamaged(f"{uri}: {error}") from error


def stored_photos(batch: pa.RecordBatch, layout: ParquetLayout, first: int) -> Iterator[StoredPhoto]:
    """Yields the photos of a batch whose first row is row `first` of its row group."""
    if layout.kind == "image":
        column = batch.column("image")
        data = column.field("bytes")
        names = column.field("path") if "path" in [member.name for member in column.type] else None
        valid = column.is_valid()
        for i in range(batch.num_rows):
            name = names[i].as_py() if names is not None and valid[i].as_py() else None
            yield StoredPhoto(first + i, name, data[i].as_py() if valid[i].as_py() else None, None)
        return
    for i in range(batch.num_rows):
        if layout.kind == "content":
            yield StoredPhoto(first + i, batch.column("path")[i].as_py(), batch.column("content")[i].as_py(), None)
        else:
            uri = batch.column("uri")[i].as_py()
            yield StoredPhoto(first + i, uri, None, uri)

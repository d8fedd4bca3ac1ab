"""Where a drop's photos are: a folder or prefix of image files, or Parquet in one of three conventions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from resources.schemas import PHOTO_SUFFIXES, RECEIPTS, UNSUPPORTED_SUFFIXES
from resources.storage import FileEntry, Storage

MAX_ROW_GROUP_BYTES = 4 * 2**30  # stated, decoded; a Parquet bomb is refused before it is read
CHUNK_ROWS = 64


@dataclass(frozen=True)
class ParquetLayout:
    """How a Parquet file holds photos.

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
        return {"image": ["image"], "content": ["path", "content"], "uri": ["uri"]}[self.kind]


@dataclass(frozen=True)
class SourceListing:
    """What lies at a source.

    Attributes:
        kind: "files", one photo a file, or "parquet".
        base: URL that the entries' paths are relative to.
        files: the photo files, or the Parquet files.
        ignored: number of files that are neither.
        layout: of the Parquet files.
    """

    kind: Literal["files", "parquet"]
    base: str
    files: list[FileEntry]
    ignored: int
    layout: ParquetLayout | None = None


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


def list_source(url: str) -> SourceListing:
    """Lists a folder, a prefix, a Parquet file or a folder of Parquet files.

    Hidden entries and those under a folder that begins with `_` or `.` are left out.

    Raises:
        FileNotFoundError: if there is nothing at the URL.
        ValueError: if it mixes photos and Parquet, or Parquet files differ in layout.
    """
    source = Storage(url)
    if source.url.endswith(".parquet") and not source.is_folder():
        parent, name = source.as_parent_and_name()
        size = parent.size(name)
        if size is None:
            raise FileNotFoundError(f"there is no file at {url}")
        return _parquet_listing(parent, [FileEntry(name, size, parent.identity(name))], 0)
    if not source.is_folder():
        raise FileNotFoundError(f"there is no folder, prefix or Parquet file at {url}")
    photos, parquet, ignored = [], [], 0
    for entry in source.list_files():
        if any(part.startswith((".", "_")) for part in entry.path.split("/")):
            continue
        suffix = "." + entry.path.rpartition(".")[2].lower()
        if suffix in PHOTO_SUFFIXES or suffix in UNSUPPORTED_SUFFIXES:
            photos.append(entry)
        elif suffix == ".parquet":
            parquet.append(entry)
        else:
            ignored += 1
    if photos and parquet:
        raise ValueError(
            f"{url} holds {len(photos)} image files and {len(parquet)} Parquet files: give them as two drops"
        )
    if parquet:
        return _parquet_listing(source, parquet, ignored)
    return SourceListing("files", source.url, photos, ignored)


def _parquet_listing(base: Storage, files: list[FileEntry], ignored: int) -> SourceListing:
    layouts = {}
    for entry in files:
        with base.open(entry.path) as file:
            layouts[entry.path] = parquet_layout(pq.read_schema(file))
    first = layouts[files[0].path]
    for path, layout in layouts.items():
        if layout.kind != first.kind or not layout.passthrough.equals(first.passthrough):
            raise ValueError(f"{path} and {files[0].path} have different columns: give them as two drops")
    return SourceListing("parquet", base.url, files, ignored, first)


def parquet_layout(schema: pa.Schema) -> ParquetLayout:
    """Finds the photo columns and checks that the others can be carried.

    Raises:
        ValueError: naming the column that is missing, clashes with a receipt column, or has a type that the table
            format cannot keep.
    """
    names = set(schema.names)
    kind: Literal["image", "content", "uri"]
    if "image" in names and pa.types.is_struct(schema.field("image").type):
        kind = "image"
        members = {member.name for member in schema.field("image").type}
        if "bytes" not in members:
            raise ValueError(
                "column 'image' is a struct without 'bytes': the Hugging Face form struct<bytes, path> is read"
            )
    elif {"path", "content"} <= names:
        kind = "content"
    elif "uri" in names:
        kind = "uri"
    else:
        raise ValueError(
            f"no photo column among {', '.join(sorted(names))}: give image: struct<bytes, path>, path and content, or uri"
        )
    taken = {"image": ["image"], "content": ["path", "content"], "uri": ["uri"]}[kind]
    passthrough = [column for column in schema if column.name not in taken]
    for column in passthrough:
        _check_column(column)
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key == b"huggingface"}
    return ParquetLayout(kind, pa.schema(passthrough), metadata)


def _check_column(column: pa.Field) -> None:
    if column.name in RECEIPTS.names or column.name == "image":
        raise ValueError(f"column {column.name!r} clashes with a column of the receipts: rename it in the source")
    if not _delta_keeps(column.type):
        raise ValueError(
            f"column {column.name!r} has type {column.type}, which the table format cannot keep: cast it in the source"
        )


def _delta_keeps(kind: pa.DataType) -> bool:
    """Whether a Delta table stores values of a type and gives them back unchanged."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _delta_keeps(kind.value_type)
    if types.is_struct(kind):
        return all(_delta_keeps(member.type) for member in kind)
    if types.is_map(kind):
        return _delta_keeps(kind.key_type) and _delta_keeps(kind.item_type)
    if types.is_timestamp(kind):
        return kind.unit in ("us", "ms", "s")
    return bool(
        types.is_signed_integer(kind)
        or types.is_float32(kind)
        or types.is_float64(kind)
        or types.is_boolean(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_date32(kind)
        or types.is_decimal128(kind)
        or types.is_dictionary(kind)
        and types.is_string(kind.value_type)
    )


def open_parquet(file: Any) -> pq.ParquetFile:
    """Opens a Parquet file so that a flipped byte in a page is found, where the writer stored checksums."""
    return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)


def check_row_group(parquet: pq.ParquetFile, row_group: int) -> None:
    """Raises ValueError if a row group says that it decodes to more than MAX_ROW_GROUP_BYTES."""
    stated = parquet.metadata.row_group(row_group).total_byte_size
    if stated > MAX_ROW_GROUP_BYTES:
        raise ValueError(
            f"row group {row_group} decodes to {stated} bytes; {MAX_ROW_GROUP_BYTES} are allowed: write smaller ones"
        )


def iter_rows(parquet: pq.ParquetFile, row_group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields one row group in batches of CHUNK_ROWS, so that one batch's photos are in memory at a time."""
    check_row_group(parquet, row_group)
    yield from parquet.iter_batches(batch_size=CHUNK_ROWS, row_groups=[row_group], columns=columns, use_threads=False)


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

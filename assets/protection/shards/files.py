"""The Parquet file of a shard: its columns, how its rows are written and read, and what it says of the work.

A file has receipts; in a table it has the photos and the pass-through columns of their source beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rid.assets.catalog.plan import DropCatalog
from rid.assets.catalog.sources import SourcePhoto
from rid.resources.catalogs import open_parquet
from rid.resources.records import Receipt, Record, column_values, columns_of, read_records
from rid.resources.schemas import IMAGE, PICTURES_COLUMN, RECEIPTS
from rid.resources.storage import Storage

ROW_GROUP_PHOTOS = 64
STATISTICS = ("key", "status", "reason", "output_sha256", "input_sha256")
SALT_KEY = b"rid"  # schema metadata of a shard file: what decided its bytes beside the photos
PICTURES = pa.field(PICTURES_COLUMN, pa.list_(pa.string()))  # where columns beside the photo are protected
IMAGE_COLUMNS = ("image", "content")  # either holds a table's photos

TargetKind = Literal["files", "table"]


@dataclass(frozen=True)
class ShardRow:
    """One row of a shard's file.

    Attributes:
        receipt: what became of the photo.
        name: what the source calls the photo; in a table alone.
        image: the published photo; in a table alone, and None for one that is held back.
        passthrough: values of the source's other columns; in a table alone.
        pictures: sha256 of each picture in those of them that are protected, in the order of `pictures_in`.
    """

    receipt: Receipt
    name: str | None = None
    image: bytes | None = None
    passthrough: Mapping[str, Any] = field(default_factory=dict, hash=False)
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardColumns:
    """The columns of a drop's shard files; the drop is the table's partition and not among them.

    Attributes:
        target_kind: "files" has receipts alone, "table" the photos and the pass-through columns too.
        layout: "files", or the Parquet layout of the source: "image", "content", "uri".
        passthrough: the schema of the pass-through columns.
        pictures: those of them whose pictures are protected.
    """

    target_kind: TargetKind
    layout: str
    passthrough: pa.Schema
    pictures: tuple[str, ...] = ()

    @classmethod
    def of(cls, target_kind: TargetKind, catalog: DropCatalog) -> ShardColumns:
        """Returns the columns of a catalogued drop in a kind of target."""
        serialised = bytes.fromhex(catalog.passthrough)
        schema = pa.ipc.read_schema(pa.BufferReader(serialised)) if serialised else pa.schema([])
        return cls(target_kind, catalog.layout, schema, catalog.columns.protected if catalog.columns else ())

    def schema(self, salt: str = "") -> pa.Schema:
        """Returns the schema of a file that records `salt`; see `rid.assets.catalog.plan.plan_shards`."""
        receipt = [column for column in RECEIPTS if column.name != "drop"]
        if self.target_kind == "files":
            return pa.schema(receipt, metadata={SALT_KEY: salt.encode()})
        photo = {
            "files": [pa.field("image", IMAGE)],
            "image": [pa.field("image", IMAGE)],
            "content": [pa.field("path", pa.string()), pa.field("content", pa.binary())],
            "uri": [pa.field("uri", pa.string()), pa.field("image", IMAGE)],
        }[self.layout]
        metadata = {**(self.passthrough.metadata or {}), SALT_KEY: salt.encode()}
        receipt += [PICTURES] if self.pictures else []
        return pa.schema([*photo, *self.passthrough, *receipt], metadata=metadata)

    def row(self, receipt: Receipt, photo: SourcePhoto, image: bytes | None) -> ShardRow:
        """Returns the row of a photo that was read from its source."""
        if self.target_kind == "files":
            return ShardRow(receipt)
        passthrough = photo.columns.to_pylist()[0] if photo.columns is not None else {}
        return ShardRow(receipt, photo.row.key if self.layout == "files" else photo.name, image, passthrough)

    def to_columns(self, row: ShardRow) -> dict[str, Any]:
        """Returns a row's values by column, as Arrow takes them."""
        values = dict(row.passthrough) | column_values(row.receipt) | {PICTURES.name: list(row.pictures)}
        if self.target_kind == "files":
            return values
        image = {"bytes": row.image, "path": row.name} if row.image is not None else None
        if self.layout == "content":
            return values | {"path": row.name, "content": row.image}
        return values | {"image": image} | ({"uri": row.name} if self.layout == "uri" else {})

    def read(self, rows: pa.Table, drop: str) -> list[ShardRow]:
        """Returns rows of a file of this drop."""
        receipts = read_records(Receipt, rows, drop=drop)
        if self.target_kind == "files":
            return [ShardRow(receipt) for receipt in receipts]
        there = [name for name in self.passthrough.names if name in rows.schema.names]
        passthrough = rows.select(there).to_pylist() if there else [{} for _ in range(rows.num_rows)]
        every = zip(receipts, self._names(rows), stored_images(rows), passthrough, stored_pictures(rows), strict=True)
        return [ShardRow(*parts) for parts in every]

    def _names(self, rows: pa.Table) -> list[str | None]:
        """Returns what the source called the photos, as far as a file keeps it."""
        column = {"content": "path", "uri": "uri"}.get(self.layout)
        names = rows.column(column) if column else pc.struct_field(rows.column("image"), "path")
        found: list[str | None] = names.to_pylist()
        return found


def stored_images(rows: pa.Table | pa.RecordBatch) -> list[bytes | None]:
    """Returns the photos in rows of a table, in either of its forms; None for a row without one, or a folder's row."""
    images: list[bytes | None] = [None] * rows.num_rows
    if "image" in rows.schema.names:
        images = pc.struct_field(rows.column("image"), "bytes").to_pylist()
    elif "content" in rows.schema.names:
        images = rows.column("content").to_pylist()
    return images


def carried_schema(schema: pa.Schema) -> pa.Schema:
    """Returns the columns of a shard's file that are neither the photo nor part of its receipt."""
    taken = {*RECEIPTS.names, PICTURES.name, *(IMAGE_COLUMNS if "image" not in schema.names else ("image",))}
    return pa.schema([column for column in schema if column.name not in taken])


def stored_pictures(rows: pa.Table | pa.RecordBatch) -> list[tuple[str, ...]]:
    """Returns what rows of a table say of the pictures in their protected columns."""
    if PICTURES.name not in rows.schema.names:
        return [()] * rows.num_rows
    return [tuple(digests or ()) for digests in rows.column(PICTURES.name).to_pylist()]


def readable_columns(kind: type[Any], parquet: pq.ParquetFile) -> list[str]:
    """Returns those columns of a record that a shard's file has, and the photos where it holds them."""
    return [name for name in (*columns_of(kind), *IMAGE_COLUMNS) if name in parquet.schema_arrow.names]


def find_photos(
    receipts: Storage, path: str, kind: type[Record], wanted: Set[str]
) -> Iterator[tuple[Record, bytes | None]]:
    """Yields rows of some photos as records, each with its photo where the file holds it.

    A row group without any of them is not read.

    Args:
        receipts: the table's storage.
        path: of a shard file in it.
        kind: of the records.
        wanted: keys of the photos.
    """
    with receipts.open(path) as file:
        parquet = open_parquet(file)
        columns = readable_columns(kind, parquet)
        for group in range(parquet.metadata.num_row_groups):
            keys = parquet.read_row_group(group, columns=["key"], use_threads=False).column("key").to_pylist()
            if wanted.isdisjoint(keys):
                continue
            rows = parquet.read_row_group(group, columns=columns, use_threads=False)
            for key, record, image in zip(keys, read_records(kind, rows), stored_images(rows), strict=True):
                if key in wanted:
                    yield record, image


def shard_salt(parquet: pq.ParquetFile) -> str:
    """Returns what a shard file says of the work that made it; "" if it says nothing."""
    metadata: dict[bytes, bytes] = parquet.schema_arrow.metadata or {}
    return metadata.get(SALT_KEY, b"").decode()


def recorded_salt(receipts: Storage, path: str) -> str:
    """Reads what a shard file in a table's storage says of the work that made it."""
    with receipts.open(path) as file:
        return shard_salt(open_parquet(file))


class ShardWriter:
    """Writes a shard's rows in row groups of ROW_GROUP_PHOTOS; a context manager.

    Photos do not compress: they get no compression and no statistics, but checksums of their pages.
    """

    def __init__(self, path: Path, columns: ShardColumns, schema: pa.Schema) -> None:
        self._columns = columns
        self._schema = schema
        self._pending: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=[name for name in STATISTICS if name in schema.names],
            write_page_checksum=True,
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, row: ShardRow) -> None:
        """Adds a row."""
        self._pending.append(self._columns.to_columns(row))
        if len(self._pending) == ROW_GROUP_PHOTOS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            rows = pa.Table.from_pylist(self._pending, schema=self._schema)
            self._writer.write_table(rows, row_group_size=ROW_GROUP_PHOTOS)
            self._pending = []

"""The Parquet file of a shard: its columns, how it is written, and how a row becomes a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rid.assets.catalog.sources import SourcePhoto
from rid.assets.protection.shards.carried_rows import SALT_KEY
from rid.resources.schemas import IMAGE, RECEIPTS

ROW_GROUP_PHOTOS = 64
STATISTICS = ("key", "status", "reason", "output_sha256", "input_sha256")

TargetKind = Literal["files", "table"]


def passthrough_schema(serialised: str) -> pa.Schema:
    """Reads the schema of the pass-through columns, as `rid.assets.catalog.plan.DropCatalog` holds it."""
    return pa.ipc.read_schema(pa.BufferReader(bytes.fromhex(serialised))) if serialised else pa.schema([])


def shard_schema(target_kind: TargetKind, layout: str, passthrough: str, salt: str = "") -> pa.Schema:
    """The columns of a shard's file; the drop is the table's partition and not among them.

    Args:
        target_kind: "files" has receipts alone, "table" the photos and the pass-through columns too.
        layout: "files", or the Parquet layout: "image", "content", "uri".
        passthrough: the serialised schema of the pass-through columns, hexadecimal.
        salt: recorded in the file; see `rid.assets.catalog.plan.plan_shards`.
    """
    receipt = [column for column in RECEIPTS if column.name != "drop"]
    if target_kind == "files":
        return pa.schema(receipt, metadata={SALT_KEY: salt.encode()})
    columns = passthrough_schema(passthrough)
    photo = {
        "files": [pa.field("image", IMAGE)],
        "image": [pa.field("image", IMAGE)],
        "content": [pa.field("path", pa.string()), pa.field("content", pa.binary())],
        "uri": [pa.field("uri", pa.string()), pa.field("image", IMAGE)],
    }[layout]
    return pa.schema([*photo, *columns, *receipt], metadata={**(columns.metadata or {}), SALT_KEY: salt.encode()})


def photo_columns(photo: SourcePhoto, target_kind: TargetKind, layout: str, data: bytes | None) -> dict[str, Any]:
    """The photo and pass-through columns of a row; a quarantined photo has no image, a folder target none at all."""
    if target_kind == "files":
        return {}
    columns = photo.columns.to_pylist()[0] if photo.columns is not None else {}
    name = photo.row["key"] if layout == "files" else photo.name
    image = {"bytes": data, "path": name} if data is not None else None
    if layout == "content":
        return columns | {"path": name, "content": data}
    if layout == "uri":
        return columns | {"uri": name, "image": image}
    return columns | {"image": image}


class ShardWriter:
    """Writes a shard's rows in row groups of ROW_GROUP_PHOTOS; a context manager.

    Photos do not compress: they get no compression and no statistics, but checksums of their pages.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
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

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        self._pending.append(row)
        if len(self._pending) == ROW_GROUP_PHOTOS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            rows = pa.Table.from_pylist(self._pending, schema=self._schema)
            self._writer.write_table(rows, row_group_size=ROW_GROUP_PHOTOS)
            self._pending = []

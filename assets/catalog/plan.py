"""From the photos of a drop to shards and their work keys.

A shard is the unit of work and of commit. Photos that are files of their own go to buckets by a hash of their key, so
that a new photo changes one shard. Rows of Parquet files stay in runs in source order, cut where a hash of the key
says so: buckets would make every shard read every row group, and an appended row changes only the last run.

The catalog of a drop is `<state>/catalog/<drop>/<digest>.parquet`, and `current.json` beside it. Its rows have the
number of their shard. A row group holds several shards, since every task that reads one reads the file's footer, which
has an entry a row group and column: with a shard a row group, a million rows cost more in footers than in photos.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rid.assets.catalog.index import PhotoIndex
from rid.assets.catalog.picture_columns import PictureColumns
from rid.resources.mapped_tables import filter_table, iter_values, map_table
from rid.resources.records import CatalogRow, read_records
from rid.resources.schemas import CATALOG
from rid.resources.storage import Storage

SHARD_PHOTOS = 64
GROUP_SHARDS = 64  # shards in a row group of a catalog
SHARD = "shard"  # the column of their numbers


@dataclass(frozen=True)
class DropCatalog:
    """A drop's catalog as it lies in storage.

    Attributes:
        url: of its Parquet file.
        source: URL of the source.
        layout: "files", or how its Parquet files hold photos: "image", "content" or "uri".
        photos: number of rows.
        bytes_in: their bytes.
        ignored: files of the source that are no photos.
        bucket_count: number of hash buckets; 0 for Parquet sources.
        shards: number of shards.
        policy_digest: of the policy whose limits the headers were held against.
        passthrough: the schema of the pass-through columns, serialised by Arrow, hexadecimal; "" for image files.
        marked: photos that came with a mark of protection.
        columns: what becomes of columns that hold pictures; None if there are none that could, or if nobody looked.
    """

    url: str
    source: str
    layout: str
    photos: int
    bytes_in: int
    ignored: int
    bucket_count: int
    shards: int
    policy_digest: str
    passthrough: str
    marked: int = 0
    columns: PictureColumns | None = None


@dataclass(frozen=True)
class Shard:
    """One shard of a catalog.

    Attributes:
        number: its place in the catalog.
        work_key: names the work.
        photos: number of rows.
        marked: whether one of them came with a mark of protection.
    """

    number: int
    work_key: str
    photos: int
    marked: bool = False


def state_storage(target: Storage) -> Storage:
    """The folder of a target's catalogs, which the table's vacuum passes over."""
    return target.child("_rid", "_state")


def catalog_storage(state: Storage, drop: str) -> Storage:
    """The folder of a drop's catalog under a state folder."""
    return state.child("catalog", drop)


def read_current(state: Storage, drop: str) -> DropCatalog | None:
    """Returns the drop's current catalog, or None if it has none."""
    storage = catalog_storage(state, drop)
    if not storage.exists("current.json"):
        return None
    fields = json.loads(storage.read_bytes("current.json"))
    return _catalog(storage.uri(fields.pop("file")), fields)


def read_catalog(catalog: DropCatalog) -> pa.Table:
    """Returns all rows of a catalog, mapped from a temporary file."""
    parent, name = Storage(catalog.url).as_parent_and_name()
    with parent.open(name) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        schema = parquet.schema_arrow
        kept = [column for column in schema.names if column != SHARD]
        groups = range(parquet.metadata.num_row_groups)
        tables = (parquet.read_row_group(group, columns=kept, use_threads=False) for group in groups)
        return map_table(tables, pa.schema([schema.field(column) for column in kept], schema.metadata))


def read_shard_rows(catalog_url: str, number: int) -> list[CatalogRow]:
    """Returns the catalog rows of one shard."""
    ((_, rows),) = read_shards(catalog_url, wanted=[number])
    return list(read_records(CatalogRow, rows))


def read_shards(
    catalog_url: str, columns: Sequence[str] | None = None, wanted: Sequence[int] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yields shards of a catalog, by number, with their rows; one row group is in memory at a time.

    Args:
        catalog_url: of the catalog.
        columns: by default all of a catalog's.
        wanted: numbers of shards; by default all.
    """
    names = list(columns or CATALOG.names)
    parent, name = Storage(catalog_url).as_parent_and_name()
    with parent.open(name) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        numbered = SHARD in parquet.schema_arrow.names  # else an earlier version wrote it, a row group a shard
        share = GROUP_SHARDS if numbered else 1
        every = range(parquet.metadata.num_row_groups)
        chosen = None if wanted is None else set(wanted)
        for group in every if chosen is None else sorted({number // share for number in chosen}):
            rows = parquet.read_row_group(group, columns=[*names, SHARD] if numbered else names, use_threads=False)
            numbers = rows.column(SHARD).to_numpy() if numbered else np.full(rows.num_rows, group)
            starts = np.flatnonzero(np.diff(numbers, prepend=-1))
            for start, end in pairwise([*starts, rows.num_rows]):
                if chosen is None or int(numbers[start]) in chosen:
                    yield int(numbers[start]), rows.slice(start, end - start).select(names)


def write_catalog(state: Storage, drop: str, index: PhotoIndex, previous: DropCatalog | None) -> DropCatalog:
    """Writes the catalog of an indexed drop; an unchanged one is left as it is and nothing is written.

    The number of buckets is fixed by the drop's first catalog.
    """
    listing = index.listing
    layout = listing.layout
    if previous is not None and index.unchanged and previous.ignored == index.ignored:
        return previous
    if listing.kind == "files":
        buckets = previous.bucket_count if previous else 0
        bucket_count = buckets or max(1, -(-index.rows.num_rows // SHARD_PHOTOS))
        groups = bucket_groups(index.rows, bucket_count)
    else:
        bucket_count = 0
        groups = run_groups(index.rows)
    schema = layout.passthrough.with_metadata(layout.metadata or None) if layout else pa.schema([])
    fields: dict[str, Any] = {
        "source": listing.base.url,
        "layout": layout.kind if layout else "files",
        "photos": index.rows.num_rows,
        "bytes_in": int(np.sum(index.rows.column("bytes_in").to_numpy())),
        "ignored": index.ignored,
        "bucket_count": bucket_count,
        "shards": len(groups),
        "policy_digest": index.policy_digest,
        "passthrough": schema.serialize().to_pybytes().hex() if layout else "",
        "marked": index.rows.num_rows - index.rows.column("mark").null_count,
        "columns": asdict(index.columns) if index.columns is not None else None,
    }
    return _store(catalog_storage(state, drop), index.rows, groups, fields, previous)


def write_catalog_without(state: Storage, drop: str, catalog: DropCatalog, keys: frozenset[str]) -> DropCatalog:
    """Writes a drop's catalog as if its source had never had some photos; one without them is left as it is."""
    rows = read_catalog(catalog)
    kept = filter_table(rows, pc.invert(pc.is_in(rows.column("key"), pa.array(sorted(keys)))))
    if kept.num_rows == rows.num_rows:
        return catalog
    groups = bucket_groups(kept, catalog.bucket_count) if catalog.bucket_count else run_groups(kept)
    fields = asdict(catalog) | {
        "photos": kept.num_rows,
        "bytes_in": int(np.sum(kept.column("bytes_in").to_numpy())),
        "shards": len(groups),
        "marked": kept.num_rows - kept.column("mark").null_count,
    }
    del fields["url"]
    return _store(catalog_storage(state, drop), kept, groups, fields, None)


def _store(
    storage: Storage,
    rows: pa.Table,
    groups: list[NDArray[np.int64]],
    fields: dict[str, Any],
    previous: DropCatalog | None,
) -> DropCatalog:
    """Writes a catalog under the digest of its content, then names it as the current one."""
    if fields["columns"] is None:
        del fields["columns"]  # as earlier versions wrote it
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "catalog.parquet"
        _write_groups(local, rows, groups)
        name = f"{hashlib.sha256(local.read_bytes() + json.dumps(fields).encode()).hexdigest()[:16]}.parquet"
        catalog = _catalog(storage.uri(name), fields)
        if catalog == previous and storage.exists(name):
            return catalog
        storage.write_file(name, local)
    storage.write_bytes("current.json", (json.dumps({"file": name, **fields}, indent=2) + "\n").encode())
    return catalog


def _catalog(url: str, fields: dict[str, Any]) -> DropCatalog:
    """A catalog of what its JSON says."""
    columns = fields.get("columns")
    found = PictureColumns(**{name: tuple(values) for name, values in columns.items()}) if columns else None
    return DropCatalog(url=url, **fields | {"columns": found})


def bucket_groups(rows: pa.Table, bucket_count: int) -> list[NDArray[np.int64]]:
    """Row numbers of each bucket that has photos, sorted by key inside."""
    buckets: dict[int, list[int]] = {}
    keys = rows.column("key").to_pylist()
    for i, key in enumerate(keys):
        buckets.setdefault(key_hash(key) % bucket_count, []).append(i)
    return [np.array(sorted(buckets[bucket], key=lambda i: keys[i])) for bucket in sorted(buckets)]


def run_groups(rows: pa.Table) -> list[NDArray[np.int64]]:
    """Row numbers of each run: a new one begins with each file, and at each key whose hash says so."""
    starts, file = [], None
    for number, (key, uri) in enumerate(
        zip(*(iter_values(rows.column(i)) for i in ("key", "source_uri")), strict=True)
    ):
        if uri != file or key_hash(key) % SHARD_PHOTOS == 0:
            starts.append(number)
            file = uri
    return [np.arange(start, end) for start, end in pairwise([*starts, rows.num_rows])]


def key_hash(key: str) -> int:
    """A 64-bit hash of a key that never changes."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def plan_shards(catalog: DropCatalog, salt: str) -> Iterator[Shard]:
    """Yields the shards of a catalog, one row group in memory at a time.

    Args:
        catalog: the drop's catalog.
        salt: what decides the output beside the photos: defender, policy, budget, kind of target, code epoch.
    """
    columns = ["key", "input_sha256", "columns_sha256", "reason", "sidecars"]
    for number, rows in read_shards(catalog.url, [*columns, "mark"]):
        marked = rows.column("mark").null_count < rows.num_rows
        yield Shard(number, work_key(rows.select(columns), salt), rows.num_rows, marked)


def work_key(rows: pa.Table, salt: str) -> str:
    """sha256 of the shard's photos, sorted by key, and of what is done to them."""
    digest = hashlib.sha256(salt.encode())
    for values in sorted(
        zip(*(rows.column(name).to_pylist() for name in rows.column_names), strict=True), key=lambda v: v[0]
    ):
        digest.update(json.dumps(values).encode())
    return digest.hexdigest()


def _write_groups(path: Path, rows: pa.Table, groups: list[NDArray[np.int64]]) -> None:
    schema = CATALOG.append(pa.field(SHARD, pa.int32(), nullable=False))
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for first in range(0, len(groups), GROUP_SHARDS):
            together = groups[first : first + GROUP_SHARDS]
            order = np.concatenate(together)
            numbers = np.repeat(np.arange(first, first + len(together), dtype=np.int32), [len(g) for g in together])
            part = rows.take(pa.array(order)).append_column(schema.field(SHARD), pa.array(numbers))
            writer.write_table(part, row_group_size=part.num_rows)

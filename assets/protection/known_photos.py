"""Known photos: those with a mark that a receipt bears out, which this deployment protected and published.

A mark alone is no proof. A photo is known if a receipt has the digest of pixels that its mark names, or the sha256 of
its file. That is looked up while a run is planned, and only for shards with marked photos that are not done: a
finished drop costs nothing, and what was decided stays decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rid.assets.catalog.plan import DropCatalog, read_shards
from rid.resources.commits import ProtectedTable
from rid.resources.records import columns_of, read_records
from rid.resources.schemas import Status

DIGESTS = ("pixels_sha256", "output_sha256")


@dataclass(frozen=True)
class _PublishedRow:
    """The part of a receipt that can bear a mark out."""

    status: str
    output_sha256: str | None
    pixels_sha256: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """True if the photo was protected, or skipped for a receipt and not because marks were trusted."""
        return self.status == Status.PROTECTED or (self.status == Status.SKIPPED and "mark_trusted" not in self.flags)


def known_rows(
    catalog: DropCatalog, shards: Sequence[int], tables: Iterable[ProtectedTable]
) -> dict[int, tuple[int, ...]]:
    """Returns the rows, by shard, whose marks a receipt bears out.

    Args:
        catalog: the drop's catalog.
        shards: numbers of those that are looked at.
        tables: whose receipts count.
    """
    if not catalog.marked or not shards:
        return {}
    claims: dict[tuple[int, int], tuple[str, str]] = {}  # what a receipt has to have, by shard and row
    for number, rows in read_shards(catalog.url, ["mark", "input_sha256"], shards):
        for row, (mark, sha256) in enumerate(zip(*(rows.column(i).to_pylist() for i in (0, 1)), strict=True)):
            if mark is not None:
                claims[number, row] = (mark, sha256)
    found = _published(tables, {digest for claim in claims.values() for digest in claim})
    known: dict[int, list[int]] = {}
    for (number, row), claim in claims.items():
        if not found.isdisjoint(claim):
            known.setdefault(number, []).append(row)
    return {number: tuple(rows) for number, rows in known.items()}


def _published(tables: Iterable[ProtectedTable], wanted: set[str]) -> set[str]:
    """Returns those digests that the receipts have of photos that are protected, or were skipped as known."""
    found: set[str] = set()
    values = pa.array(sorted(wanted), pa.string())
    for table in tables if wanted else ():
        schema = table.schema()
        columns = [name for name in columns_of(_PublishedRow) if schema is not None and name in schema.names]
        for drop in table.drops():
            for batch in table.iter_batches(drop, columns):
                rows = batch.filter(pc.or_kleene(*(_is_one_of(batch, name, values) for name in DIGESTS)))
                for row in read_records(_PublishedRow, rows):
                    if row.is_known:
                        found.update(digest for digest in (row.pixels_sha256, row.output_sha256) if digest)
    return found & wanted


def _is_one_of(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.Array:
    if name not in batch.schema.names:
        return pa.array([False] * batch.num_rows)
    return pc.is_in(batch.column(name), values)

"""Tables that lie in a temporary file and are read through a memory map, so that their rows take no heap.

A catalog has some 200 bytes a row in memory. Mapped, they are pages of a file, which the kernel drops when memory is
short: what a run holds does not grow with the catalog. The file has no name once it is mapped, and is gone with the
table. It lies where `TMPDIR` says; a `TMPDIR` in memory (tmpfs) undoes this.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SLICE = 8192  # rows that are moved at once


def map_table(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Writes tables as they come and returns all their rows, in that order, as one mapped table.

    Args:
        tables: consumed one by one.
        schema: of each.
    """
    descriptor, name = tempfile.mkstemp(prefix="rid-", suffix=".arrow")
    os.close(descriptor)
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in tables:
                writer.write_table(table)
        with pa.memory_map(name) as source:
            return pa.ipc.open_file(source).read_all()
    finally:
        Path(name).unlink()


def iter_values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Yields the values of a column; those of one slice are held at once."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), SLICE):
            yield from chunk.slice(start, SLICE).to_pylist()


def sort_table(table: pa.Table, columns: list[str]) -> pa.Table:
    """Returns the rows in ascending order of some columns, mapped."""
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in columns])
    slices = (table.take(order.slice(start, SLICE)) for start in range(0, table.num_rows, SLICE))
    return map_table(slices, table.schema)


def filter_table(table: pa.Table, mask: pa.ChunkedArray) -> pa.Table:
    """Returns the rows whose value in a boolean mask is true, mapped."""
    slices = (table.slice(start, SLICE).filter(mask.slice(start, SLICE)) for start in range(0, table.num_rows, SLICE))
    return map_table(slices, table.schema)

"""Tables in a memory map, and the rows of a catalog by key."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rid.assets.catalog.rows import CatalogRows
from rid.resources.mapped_tables import SLICE, filter_table, iter_values, map_table, sort_table
from rid.resources.records import CatalogRow

SCHEMA = pa.schema([("key", pa.string()), ("number", pa.int64())])


def table(numbers: list[int]) -> pa.Table:
    return pa.table({"key": [f"photo {n}" for n in numbers], "number": numbers}, schema=SCHEMA)


def catalogued(numbers: pa.Table) -> pa.Table:
    """The rows as a catalog has them."""
    nothing = pa.array([""] * numbers.num_rows)
    columns = {"source_uri": nothing, "identity": nothing, "bytes_in": numbers.column("number")}
    return pa.table({"key": numbers.column("key"), **columns})


@pytest.fixture
def scrambled() -> pa.Table:
    """More rows than a slice, in many pieces, none in its place."""
    count = 3 * SLICE + 7
    numbers = [(n * 7919) % count for n in range(count)]
    return map_table((table(numbers[start : start + 1000]) for start in range(0, count, 1000)), SCHEMA)


def test_a_mapped_table_takes_no_heap_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = pa.total_allocated_bytes()
    mapped = map_table([table(list(range(50_000)))], SCHEMA)
    assert pa.total_allocated_bytes() - before < mapped.nbytes / 10
    assert list(tmp_path.iterdir()) == []
    assert mapped.column("number")[49_999].as_py() == 49_999


def test_a_failed_write_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(pa.ArrowInvalid):
        map_table([pa.table({"other": [1]})], SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_sorted_and_filtered_across_slices(scrambled: pa.Table) -> None:
    ordered = sort_table(scrambled, ["number"])
    assert ordered.column("number").to_pylist() == list(range(scrambled.num_rows))
    assert ordered.column("key").to_pylist() == [f"photo {n}" for n in range(scrambled.num_rows)]
    even = filter_table(ordered, pc.equal(pc.bit_wise_and(ordered.column("number"), 1), 0))
    assert list(iter_values(even.column("number"))) == list(range(0, scrambled.num_rows, 2))
    assert filter_table(ordered, pc.less(ordered.column("number"), 0)).schema == SCHEMA


def test_catalog_rows_are_found_and_counted(scrambled: pa.Table) -> None:
    rows = CatalogRows(catalogued(scrambled))
    assert rows.row("photo 12345") == CatalogRow(key="photo 12345", source_uri="", identity="", bytes_in=12345)
    assert rows.row("stranger") is None
    assert not rows.count("stranger")
    for number in range(scrambled.num_rows):
        if number != 17:
            assert rows.count(f"photo {number}")
    assert rows.count("photo 5")
    assert rows.counted() == scrambled.num_rows
    assert sorted(rows.uneven()) == [("photo 17", 0), ("photo 5", 2)]


def test_keys_whose_hashes_are_equal_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rid.assets.catalog.rows.hash", lambda key: 7, raising=False)
    rows = CatalogRows(catalogued(table([1, 2, 3])))
    found = [rows.row(f"photo {n}") for n in (1, 2, 3)]
    assert [row.bytes_in for row in found if row is not None] == [1, 2, 3]
    assert rows.row("photo 4") is None

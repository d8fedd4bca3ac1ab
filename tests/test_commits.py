import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from resources.commits import ConflictingCommit, ProtectedTable, ShardFile, shard_path, storage_options
from resources.storage import Storage

SCHEMA = pa.schema(
    [pa.field("key", pa.string(), False), pa.field("drop", pa.string(), False), pa.field("n", pa.int32())]
)


def write_shard(url: str, drop: str, work_key: str, keys: list[str], extra: pa.DataType | None = None) -> ShardFile:
    columns = {"key": pa.array(keys), "n": pa.array(range(len(keys)), pa.int32())}
    if extra is not None:
        columns["extra"] = pa.nulls(len(keys), extra)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, write_page_checksum=True)
    path = shard_path(drop, work_key)
    data = sink.getvalue().to_pybytes()
    Storage(url).write_bytes(path, data)
    return ShardFile(path, len(data), len(keys))


def keys(url: str, drop: str) -> list[str]:
    return sorted(ProtectedTable(url).read(drop, ["key"]).column("key").to_pylist())


def test_a_drop_is_committed_as_a_difference(place: str) -> None:
    table = ProtectedTable(place)
    a, b = write_shard(place, "d", "a", ["1", "2"]), write_shard(place, "d", "b", ["3"])
    first = table.commit_drop("d", [a, b], SCHEMA, {"defender": "x"})
    assert (first.added, first.removed) == (2, 0)
    again = table.commit_drop("d", [a, b], SCHEMA, {"defender": "x"})
    assert (again.added, again.removed, again.version) == (0, 0, first.version)
    c = write_shard(place, "d", "c", ["3", "4"])
    changed = table.commit_drop("d", [a, c], SCHEMA, {"defender": "y"})
    assert (changed.added, changed.removed) == (1, 1)
    assert keys(place, "d") == ["1", "2", "3", "4"]
    assert table.history()[0]["defender"] == "y"


def test_any_delta_reader_sees_the_same_rows(place: str) -> None:
    files = [write_shard(place, "d", "a", ["1", "2"]), write_shard(place, "d", "b", ["3"])]
    ProtectedTable(place).commit_drop("d", files, SCHEMA, {})
    read = DeltaTable(place, storage_options=storage_options(place)).to_pyarrow_table()
    assert sorted(read.column("key").to_pylist()) == ["1", "2", "3"]
    assert set(read.column("drop").to_pylist()) == {"d"}


def test_drops_do_not_touch_each_other(place: str) -> None:
    table = ProtectedTable(place)
    table.commit_drop("d", [write_shard(place, "d", "a", ["1"])], SCHEMA, {})
    table.commit_drop("e", [write_shard(place, "e", "a", ["9"])], SCHEMA, {})
    table.commit_drop("d", [write_shard(place, "d", "b", ["2"])], SCHEMA, {})
    assert (keys(place, "d"), keys(place, "e"), table.drops()) == (["2"], ["9"], ["d", "e"])


def test_a_new_column_of_another_drop_is_added_and_another_type_refused(place: str) -> None:
    table = ProtectedTable(place)
    table.commit_drop("d", [write_shard(place, "d", "a", ["1"])], SCHEMA, {})
    wider = SCHEMA.append(pa.field("extra", pa.string()))
    table.commit_drop("e", [write_shard(place, "e", "a", ["9"], pa.string())], wider, {})
    assert ProtectedTable(place).read("d", ["key", "extra"]).to_pylist() == [{"key": "1", "extra": None}]
    clash = SCHEMA.append(pa.field("extra", pa.int64()))
    with pytest.raises(ValueError, match="column 'extra' is int64 here and string"):
        table.commit_drop("f", [write_shard(place, "f", "a", ["9"], pa.int64())], clash, {})


def commit(
    url: str,
    drop: str,
    names: list[str],
    barrier: "multiprocessing.synchronize.Barrier",
    out: "multiprocessing.Queue[str]",
) -> None:
    files = [write_shard(url, drop, name, [f"{name}-{i}" for i in range(3)]) for name in names]
    barrier.wait()
    try:
        ProtectedTable(url).commit_drop(drop, files, SCHEMA, {})
        out.put("committed")
    except ConflictingCommit:
        out.put("refused")


def race(url: str, plans: list[tuple[str, list[str]]]) -> list[str]:
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(len(plans)), context.Queue()
    processes = [context.Process(target=commit, args=(url, drop, names, barrier, out)) for drop, names in plans]
    for process in processes:
        process.start()
    outcomes = [out.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return outcomes


def test_two_writers_of_one_plan_give_one_set_of_rows(place: str) -> None:
    assert race(place, [("d", ["a", "b"]), ("d", ["a", "b"])]) == ["committed", "committed"]
    assert len(keys(place, "d")) == 6


def test_two_writers_of_different_plans_never_mix(place: str) -> None:
    outcomes = race(place, [("d", ["a", "b"]), ("d", ["c"])])
    assert "committed" in outcomes
    assert keys(place, "d") in ([f"{n}-{i}" for n in "ab" for i in range(3)], [f"c-{i}" for i in range(3)])


def test_different_drops_do_not_block_each_other(place: str) -> None:
    ProtectedTable(place).commit_drop("z", [write_shard(place, "z", "a", ["1"])], SCHEMA, {})
    assert race(place, [("d", ["a"]), ("e", ["a"]), ("f", ["a"])]) == ["committed"] * 3
    assert all(len(keys(place, drop)) == 3 for drop in "def")


def test_image_bytes_stay_out_of_the_log(tmp_path: Path) -> None:
    url = str(tmp_path / "t")
    ProtectedTable(url).commit_drop("d", [write_shard(url, "d", "a", ["1"])], SCHEMA, {})
    assert b"dataSkippingStatsColumns" in (tmp_path / "t" / "_delta_log" / f"{0:020d}.json").read_bytes()

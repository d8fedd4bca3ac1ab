import io
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder
from fault_proxy import Fault, fault_proxy
from s3_server import S3Server

from rid.resources.commits import ConflictingCommit, ProtectedTable, ShardFile, shard_path, storage_options
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage

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
    return sorted(ProtectedTable(Storage(url)).read(drop, ["key"]).column("key").to_pylist())


def test_a_drop_is_committed_as_a_difference(place: str) -> None:
    table = ProtectedTable(Storage(place))
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
    ProtectedTable(Storage(place)).commit_drop("d", files, SCHEMA, {})
    read = DeltaTable(place, storage_options=storage_options(place)).to_pyarrow_table()
    assert sorted(read.column("key").to_pylist()) == ["1", "2", "3"]
    assert set(read.column("drop").to_pylist()) == {"d"}


def test_drops_do_not_touch_each_other(place: str) -> None:
    table = ProtectedTable(Storage(place))
    table.commit_drop("d", [write_shard(place, "d", "a", ["1"])], SCHEMA, {})
    table.commit_drop("e", [write_shard(place, "e", "a", ["9"])], SCHEMA, {})
    table.commit_drop("d", [write_shard(place, "d", "b", ["2"])], SCHEMA, {})
    assert (keys(place, "d"), keys(place, "e"), table.drops()) == (["2"], ["9"], ["d", "e"])


def test_a_new_column_of_another_drop_is_added_and_another_type_refused(place: str) -> None:
    table = ProtectedTable(Storage(place))
    table.commit_drop("d", [write_shard(place, "d", "a", ["1"])], SCHEMA, {})
    wider = SCHEMA.append(pa.field("extra", pa.string()))
    table.commit_drop("e", [write_shard(place, "e", "a", ["9"], pa.string())], wider, {})
    assert ProtectedTable(Storage(place)).read("d", ["key", "extra"]).to_pylist() == [{"key": "1", "extra": None}]
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
        ProtectedTable(Storage(url)).commit_drop(drop, files, SCHEMA, {})
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
    ProtectedTable(Storage(place)).commit_drop("z", [write_shard(place, "z", "a", ["1"])], SCHEMA, {})
    assert race(place, [("d", ["a"]), ("e", ["a"]), ("f", ["a"])]) == ["committed"] * 3
    assert all(len(keys(place, drop)) == 3 for drop in "def")


def test_image_bytes_stay_out_of_the_log(tmp_path: Path) -> None:
    url = str(tmp_path / "t")
    ProtectedTable(Storage(url)).commit_drop("d", [write_shard(url, "d", "a", ["1"])], SCHEMA, {})
    assert b"dataSkippingStatsColumns" in (tmp_path / "t" / "_delta_log" / f"{0:020d}.json").read_bytes()


def test_a_plan_may_come_back(place: str) -> None:
    """The shard files of an earlier plan are there still; adding them again is no conflict."""
    table = ProtectedTable(Storage(place))
    a, b = write_shard(place, "d", "a", ["1"]), write_shard(place, "d", "b", ["2"])
    for plan in ([a], [b], [a], [a, b], [b]):
        table.commit_drop("d", plan, SCHEMA, {})
        assert sorted(table.live_files("d")) == sorted(file.path for file in plan)
    assert keys(place, "d") == ["2"]


def test_drop_names_are_kept(place: str) -> None:
    table = ProtectedTable(Storage(place))
    for drop in ("a=b", "2026-11-24", "x..y", "=", "A_b"):
        table.commit_drop(drop, [write_shard(place, drop, "a", [drop])], SCHEMA, {})
    assert table.drops() == ["2026-11-24", "=", "A_b", "a=b", "x..y"]
    assert all(keys(place, drop) == [drop] for drop in table.drops())
    read = DeltaTable(place, storage_options=storage_options(place)).to_pyarrow_table()
    assert all(row["key"] == row["drop"] for row in read.to_pylist())


@pytest.mark.parametrize("drop", ["..", "a/b", "a b", "", "x" * 121])
def test_other_drop_names_are_refused(drop: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drop name"):
        ProtectedTable(Storage(str(tmp_path))).commit_drop(drop, [], SCHEMA, {})


def test_an_empty_plan_empties_the_drop(place: str) -> None:
    table = ProtectedTable(Storage(place))
    table.commit_drop("d", [write_shard(place, "d", "a", ["1"])], SCHEMA, {})
    assert table.commit_drop("d", [], SCHEMA, {}).removed == 1
    assert table.read("d", ["key"]).num_rows == 0 and table.drops() == []


def test_sql_readers_see_a_drop(tmp_path: Path) -> None:
    url = str(tmp_path / "t")
    files = [write_shard(url, "d", "a", ["1", "2"]), write_shard(url, "d", "b", ["3"])]
    ProtectedTable(Storage(url)).commit_drop("d", files, SCHEMA, {})
    query = QueryBuilder().register("photos", DeltaTable(url))
    found = pa.table(query.execute("select key, n from photos where drop = 'd' and key > '1' order by key").read_all())
    assert found.column("key").to_pylist() == ["2", "3"]
    dataset = DeltaTable(url).to_pyarrow_dataset()
    assert dataset.to_table(filter=pc.field("key") == "3").num_rows == 1


def test_rows_are_read_in_batches_and_by_column(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ProtectedTable(Storage(place))
    table.commit_drop(
        "d", [write_shard(place, "d", "a", ["1", "2", "3"]), write_shard(place, "d", "b", ["4"])], SCHEMA, {}
    )
    batches = [batch.column("key").to_pylist() for batch in table.iter_batches("d", ["key", "drop"], rows=2)]
    assert batches == [["1", "2"], ["3"], ["4"]]
    assert table.read("d", ["drop"]).to_pylist() == [{"drop": "d"}] * 4
    assert table.read("none", ["key"]).num_rows == 0
    with pytest.raises(ValueError, match="has no column 'colour'"):
        table.read("d", ["colour"])


def test_receipts_are_read_without_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "t")
    path = shard_path("d", "a")
    (tmp_path / "t" / "drop=d").mkdir(parents=True)
    images = pa.array([{"bytes": os.urandom(2**20), "path": "x"}] * 8, IMAGE)
    rows = pa.table({"key": [str(i) for i in range(8)], "image": images})
    pq.write_table(rows, tmp_path / "t" / path, compression="none", use_dictionary=False)
    size = (tmp_path / "t" / path).stat().st_size
    schema = rows.schema.append(pa.field("drop", pa.string()))
    ProtectedTable(Storage(url)).commit_drop("d", [ShardFile(path, size, 8)], schema, {})
    counted: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            counted.append(len(data))
            return data

    monkeypatch.setattr(Storage, "open", lambda self, name: Counting(f"{self.url}/{name}"))
    assert ProtectedTable(Storage(url)).read("d", ["key"]).num_rows == 8
    assert 0 < sum(counted) < 100_000 < size


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("PUT", "lost", 1, "_delta_log")],
        [Fault("PUT", "503", 2, "_delta_log"), Fault("GET", "503", 2, "_delta_log")],
    ],
)
def test_a_store_with_faults_takes_each_commit_once(
    faults: list[Fault], s3: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's answer is lost: the repeat of its conditional PUT is refused, and the plan is found in the table."""
    table = ProtectedTable(Storage(s3_url))
    table.commit_drop("d", [write_shard(s3_url, "d", "a", ["1"])], SCHEMA, {})
    with fault_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults = faults
        # In a process of its own: the table library holds this process's interpreter while it waits for the proxy.
        assert race(s3_url, [("d", ["b"])]) == ["committed"]
        assert [fault.times for fault in faults] == [0] * len(faults)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert keys(s3_url, "d") == ["b-0", "b-1", "b-2"]
    assert [entry.get("drop") for entry in table.history()].count("d") == 2


def test_a_replacement_right_after_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "t")
    first, second = write_shard(url, "d", "a", ["1"]), write_shard(url, "d", "b", ["2"])
    checked = ProtectedTable._checked
    monkeypatch.setattr(ProtectedTable, "_checked", lambda self, *rest: replaced_first(self, *rest))

    def replaced_first(table: ProtectedTable, *rest: Any) -> Any:
        monkeypatch.setattr(ProtectedTable, "_checked", checked)
        ProtectedTable(Storage(url)).commit_drop("d", [second], SCHEMA, {})
        return checked(table, *rest)

    with pytest.raises(ConflictingCommit, match="another run replaced drop 'd' right after"):
        ProtectedTable(Storage(url)).commit_drop("d", [first], SCHEMA, {})
    assert keys(url, "d") == ["2"]


def replace_often(url: str, drop: str, rounds: int, extra: str, out: "multiprocessing.Queue[str]") -> None:
    table = ProtectedTable(Storage(url))
    schema = SCHEMA.append(pa.field(extra, pa.string()))
    for i in range(rounds):
        table.commit_drop(drop, [write_shard(url, drop, f"{i}", [f"{drop}{i}"])], schema, {})
    out.put(drop)


@pytest.mark.slow
def test_drops_with_columns_of_their_own_are_replaced_side_by_side(place: str) -> None:
    """Removals and new columns are what the log refuses from stale snapshots: every writer has to get through."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    plans = [("a", "caption"), ("b", "caption"), ("c", "label")]
    processes = [context.Process(target=replace_often, args=(place, drop, 3, extra, out)) for drop, extra in plans]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [keys(place, drop) for drop in "abc"] == [["a2"], ["b2"], ["c2"]]
    assert {"caption", "label"} <= set(ProtectedTable(Storage(place)).schema().names)

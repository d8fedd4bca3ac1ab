from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_catalogs import HERE, tree, write_photos

from rid.assets.catalog import plan as drop_plan
from rid.assets.catalog.index import index_source
from rid.assets.catalog.names import name_faults
from rid.assets.catalog.plan import (
    bucket_groups,
    plan_shards,
    read_catalog,
    read_current,
    read_shard_rows,
    read_shards,
    run_groups,
    work_key,
    write_catalog,
)
from rid.models.policy import ProtectionPolicy
from rid.resources.dask_workers import Workers
from rid.resources.records import CatalogRow, read_records, to_arrow
from rid.resources.schemas import CATALOG
from rid.resources.storage import Storage


def rows(keys: list[str], uri: str = "file") -> pa.Table:
    return pa.table({"key": keys, "source_uri": [uri] * len(keys)})


def groups_as_keys(table: pa.Table, groups: list[list[int]]) -> list[tuple[str, ...]]:
    keys = table.column("key").to_pylist()
    return [tuple(keys[i] for i in group) for group in groups]


def test_a_new_photo_changes_one_bucket():
    keys = [f"p{i}" for i in range(500)]
    before = rows(keys)
    after = rows([*keys, "new"])
    old = set(groups_as_keys(before, bucket_groups(before, 8)))
    new = set(groups_as_keys(after, bucket_groups(after, 8)))
    assert len(old - new) == len(new - old) == 1
    assert sum(map(len, new)) == 501


def test_buckets_do_not_depend_on_the_order_of_the_listing():
    keys = [f"p{i}" for i in range(200)]
    forward, backward = rows(keys), rows(keys[::-1])
    assert groups_as_keys(forward, bucket_groups(forward, 4)) == groups_as_keys(backward, bucket_groups(backward, 4))


def test_appended_rows_change_only_the_last_run():
    keys = [f"p{i}" for i in range(1000)]
    before, after = rows(keys), rows([*keys, *(f"q{i}" for i in range(100))])
    old, new = groups_as_keys(before, run_groups(before)), groups_as_keys(after, run_groups(after))
    assert new[: len(old) - 1] == old[:-1]
    assert 1000 / 64 / 2 < len(old) < 1000 / 64 * 2
    assert [key for group in new for key in group] == after.column("key").to_pylist()


def test_a_file_begins_a_run():
    table = pa.concat_tables([rows(["a", "b"], "one"), rows(["c"], "two")])
    assert groups_as_keys(table, run_groups(table)) == [("a", "b"), ("c",)]


def test_the_work_key_depends_on_everything_but_the_order():
    columns = {"key": ["a", "b"], "input_sha256": ["1", "2"], "columns_sha256": [None, None], "reason": [None, None]}
    key = work_key(pa.table(columns), "salt")
    assert key == work_key(pa.table({name: values[::-1] for name, values in columns.items()}), "salt")
    others = [work_key(pa.table(columns | {name: ["x", "y"]}), "salt") for name in columns]
    assert len({key, work_key(pa.table(columns), "other"), *others}) == 6


def test_an_unchanged_catalog_is_not_written_again(tmp_path: Path):
    write_photos(tmp_path / "photos", 5)
    state = Storage(str(tmp_path / "state"))
    with Workers(HERE) as workers:
        first = write_catalog(state, "d1", index_source(Storage(str(tmp_path / "photos")), workers), None)
        before = {path: (tmp_path / "state" / path).stat().st_mtime_ns for path in tree(state.url)}
        index = index_source(Storage(str(tmp_path / "photos")), workers, previous=read_catalog(first))
        again = write_catalog(state, "d1", index, read_current(state, "d1"))
    assert index.hashed == 0
    assert again == first
    assert {path: (tmp_path / "state" / path).stat().st_mtime_ns for path in tree(state.url)} == before


def test_only_a_changed_photo_is_hashed_again(tmp_path: Path):
    write_photos(tmp_path / "photos", 6)
    with Workers(HERE) as workers:
        first = write_catalog(
            Storage(str(tmp_path / "s")), "d1", index_source(Storage(str(tmp_path / "photos")), workers), None
        )
        write_photos(tmp_path / "photos", 1, first=4)
        index = index_source(Storage(str(tmp_path / "photos")), workers, previous=read_catalog(first))
        rehashed = index_source(Storage(str(tmp_path / "photos")), workers, previous=read_catalog(first), rehash=True)
    assert (index.hashed, rehashed.hashed) == (1, 6)


def test_the_number_of_buckets_is_fixed_by_the_first_plan(tmp_path: Path):
    write_photos(tmp_path / "photos", 3)
    with Workers(HERE) as workers:
        index = index_source(Storage(str(tmp_path / "photos")), workers)
        first = write_catalog(Storage(str(tmp_path / "s")), "d1", index, None)
        assert first.bucket_count == 1
        many = index_source(Storage(str(tmp_path / "photos")), workers, policy=ProtectionPolicy(min_side=16))
        again = write_catalog(Storage(str(tmp_path / "s")), "d1", many, first)
    assert again.bucket_count == 1
    assert [shard.photos for shard in plan_shards(again, "salt")] == [3]


def test_shards_share_row_groups_and_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drop_plan, "SHARD_PHOTOS", 1)
    write_photos(tmp_path / "photos", 150)
    with Workers(HERE) as workers:
        catalog = write_catalog(
            Storage(str(tmp_path / "s")), "d1", index_source(Storage(str(tmp_path / "photos")), workers), None
        )
    shards = list(plan_shards(catalog, "salt"))
    assert [shard.number for shard in shards] == list(range(catalog.shards)) and 64 < catalog.shards < 128
    assert pq.ParquetFile(catalog.url).num_row_groups == 2
    alone = [read_shard_rows(catalog.url, shard.number) for shard in shards]
    assert [len(part) for part in alone] == [shard.photos for shard in shards]
    assert [row for part in alone for row in part] == list(read_records(CatalogRow, read_catalog(catalog)))
    some = dict(read_shards(catalog.url, ["key"], wanted=[70, 3]))
    assert {number: part.column("key").to_pylist() for number, part in some.items()} == {
        number: [row.key for row in alone[number]] for number in (3, 70)
    }

    with pq.ParquetWriter(tmp_path / "old.parquet", CATALOG) as writer:  # as an earlier version wrote it
        for part in alone:
            writer.write_table(to_arrow(part, CATALOG))
    old = replace(catalog, url=str(tmp_path / "old.parquet"))
    assert list(plan_shards(old, "salt")) == shards
    assert read_shard_rows(old.url, 70) == alone[70]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/x.jpg",
        "../x.jpg",
        "a/../x.jpg",
        "a//x.jpg",
        "a/./x.jpg",
        "C:x.jpg",
        "a\\x.jpg",
        "x\x00.jpg",
        "x\n.jpg",
        "_rid/x.jpg",
        "x\u202egpj.exe",
        "\udcff.jpg",
        "x" * 300,
        "/".join(["folder" * 20] * 12),
    ],
)
def test_unsafe_names(key: str):
    assert name_faults([key, "fine.jpg"])[0].reason == "unsafe_name"
    assert 1 not in name_faults([key, "fine.jpg"])


def test_names_that_meet_are_all_held_back():
    keys = ["A.jpg", "a.jpg", "b.jpg", "cafe\u0301.jpg", "caf\u00e9.jpg", "x", "x/y.jpg", "taken.jpg"]
    faults = name_faults(keys, taken=["TAKEN.jpg"])
    assert sorted(faults) == [0, 1, 3, 4, 5, 7]
    assert {fault.reason for fault in faults.values()} == {"name_collision"}

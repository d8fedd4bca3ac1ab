import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_catalogs import HERE, photo_bytes, request_for, tree, write_parquet, write_photos
from tiny_defender import write_tiny_defender

from rid.assets.catalog.plan import plan_shards
from rid.assets.catalog.sources import InputChanged
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import catalogue, drop_work
from rid.assets.protection.shards.overlap import WriteBehind, ordered_map, read_ahead
from rid.assets.protection.shards.task import probe_photo, protect_shard
from rid.assets.protection.shards.work import ProbeTask, ShardTask, ShardWork
from rid.models.protector import Protector, ZeroPerturbation
from rid.resources.dask_workers import Workers
from rid.resources.defender_files import DefenderCorrupt
from rid.resources.storage import Storage


def first_task(request: ProtectionRequest) -> ShardTask:
    with Workers(HERE) as workers:
        catalog = catalogue(request, workers)
    shard = next(plan_shards(catalog, request.salt()))
    return ShardTask(drop_work(request, catalog, guarded=False), ShardWork(shard))


def after(task: ShardTask, path: str) -> ShardTask:
    """The same photos as another shard that may carry rows over."""
    return replace(task, work=ShardWork(replace(task.work.shard, work_key="0" * 64), earlier=(path,)))


@pytest.fixture
def request_(tmp_path: Path) -> ProtectionRequest:
    write_photos(tmp_path / "photos", 5)
    return request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")


def receipts_of(task: ShardTask, path: str) -> list[dict]:
    with task.drop.receipts.open(path) as file:
        return pq.ParquetFile(file, page_checksum_verification=True).read().to_pylist()


def test_every_photo_is_written_under_its_name_and_has_a_receipt(request_: ProtectionRequest):
    task = first_task(request_)
    result = protect_shard(task)
    assert (result.photos, result.computed, result.written) == (5, 5, True)
    rows = receipts_of(task, result.path)
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    files = tree(request_.target.url, without=("_rid",))
    assert files == {row["output_path"]: row["output_sha256"] for row in rows}
    for row in rows:
        assert row["input_sha256"] != row["output_sha256"]
        assert row["survival_gain"] > 0.5 and 1 <= row["linf_levels"] <= 6


def test_a_finished_shard_is_recognised_and_nothing_is_written(request_: ProtectionRequest):
    task = first_task(request_)
    protect_shard(task)
    before = {path: Path(f"{request_.target.url}/{path}").stat().st_mtime_ns for path in tree(request_.target.url)}
    again = protect_shard(task)
    assert (again.written, again.computed, again.photos) == (False, 0, 5)
    assert {
        path: Path(f"{request_.target.url}/{path}").stat().st_mtime_ns for path in tree(request_.target.url)
    } == before


def test_bytes_do_not_depend_on_neighbours(request_: ProtectionRequest, tmp_path: Path):
    protect_shard(first_task(request_))
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "photos" / "p002.jpg", tmp_path / "alone")
    alone = request_for(tmp_path / "alone", tmp_path / "out2", tmp_path / "defender")
    protect_shard(first_task(alone))
    assert (tmp_path / "out2/p002.jpg").read_bytes() == (tmp_path / "out/p002.jpg").read_bytes()


def test_bad_photos_are_rows_with_a_reason(request_: ProtectionRequest, tmp_path: Path):
    photos = tmp_path / "photos"
    (photos / "cut.jpg").write_bytes(photo_bytes(1, side=400)[:2000])
    (photos / "text.jpg").write_text("not a picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / "live.heic").write_bytes(b"\0\0\0\x18ftypheic")
    task = first_task(request_)
    result = protect_shard(task)
    rows = {row["key"]: row for row in receipts_of(task, result.path)}
    assert {key: row["reason"] for key, row in rows.items() if row["reason"]} == {
        "cut.jpg": "truncated",
        "text.jpg": "unsupported_format",
        "empty.png": "empty",
        "live.heic": "unsupported_format",
    }
    assert result.outcomes["protected"] == 5 and result.outcomes["quarantined"] == 4
    assert all(row["output_path"] is None and row["output_sha256"] is None for row in rows.values() if row["reason"])
    assert not (tmp_path / "out" / "text.jpg").exists()


def test_a_defect_costs_one_photo(request_: ProtectionRequest, monkeypatch: pytest.MonkeyPatch):
    real = Protector.protect

    def broken(self: Protector, data: bytes, name: str = "", **options: bool):
        if name == "p002.jpg":
            raise ArithmeticError("a defect")
        return real(self, data, name, **options)

    monkeypatch.setattr(Protector, "protect", broken)
    task = first_task(request_)
    result = protect_shard(task)
    assert result.outcomes == {"protected": 4, "quarantined": 1, "quarantined:internal_error": 1}
    (row,) = [row for row in receipts_of(task, result.path) if row["reason"]]
    assert (row["key"], row["detail"]) == ("p002.jpg", "ArithmeticError in the protector")


def test_a_photo_without_enough_memory_is_a_row(request_: ProtectionRequest, monkeypatch: pytest.MonkeyPatch):
    def hungry(self: Protector, data: bytes, name: str = "", **options: bool) -> None:
        raise MemoryError

    monkeypatch.setattr(Protector, "protect", hungry)
    assert protect_shard(first_task(request_)).outcomes["quarantined:out_of_memory"] == 5


def test_an_overwritten_photo_stops_the_shard(request_: ProtectionRequest, tmp_path: Path):
    task = first_task(request_)
    (tmp_path / "photos" / "p002.jpg").write_bytes(photo_bytes(99))
    with pytest.raises(InputChanged):
        protect_shard(task)
    assert not request_.target.receipts.storage.exists(task.path())


def test_a_removed_photo_stops_the_shard(request_: ProtectionRequest, tmp_path: Path):
    task = first_task(request_)
    (tmp_path / "photos" / "p002.jpg").unlink()
    with pytest.raises(InputChanged):
        protect_shard(task)


def test_a_defender_that_does_nothing_is_refused(request_: ProtectionRequest, tmp_path: Path):
    write_tiny_defender(tmp_path / "zero", strength=0)
    zero = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "zero")
    with pytest.raises(ZeroPerturbation):
        protect_shard(first_task(zero))
    assert not tree(tmp_path / "out", without=("_rid",))


def test_a_swapped_model_file_is_refused(request_: ProtectionRequest, tmp_path: Path):
    task = first_task(request_)
    write_tiny_defender(tmp_path / "other", seed=5)
    shutil.copy(tmp_path / "other" / "model.onnx", tmp_path / "defender" / "model.onnx")
    with pytest.raises(DefenderCorrupt):
        protect_shard(task)


def test_a_lost_output_is_redone_alone_with_the_same_bytes(request_: ProtectionRequest, tmp_path: Path):
    task = first_task(request_)
    first = protect_shard(task)
    before = tree(request_.target.url)
    (tmp_path / "out" / "p002.jpg").unlink()
    redone = protect_shard(replace(task, work=replace(task.work, again=True, earlier=(first.path,))))
    assert (redone.computed, redone.written, redone.path) == (1, False, first.path)
    assert tree(request_.target.url) == before


def test_rows_of_other_work_are_not_carried_over(request_: ProtectionRequest):
    task = first_task(request_)
    first = protect_shard(task)
    other = replace(after(task, first.path), drop=replace(task.drop, salt="other"))
    assert protect_shard(other).computed == 5


def test_table_rows_are_carried_over_with_their_bytes(tmp_path: Path):
    write_parquet(tmp_path / "in" / "a.parquet", 6)
    request = request_for(tmp_path / "in", tmp_path / "out", tmp_path / "defender", target_kind="table")
    task = first_task(request)
    first = protect_shard(task)
    copied = protect_shard(after(task, first.path))
    assert (first.computed, copied.computed) == (6, 0)
    one, two = receipts_of(task, first.path), receipts_of(task, copied.path)
    assert [row | {"work_key": "0" * 64} for row in one] == two, "they are rows of the shard that carried them over"


def test_killers_are_quarantined_without_another_try(request_: ProtectionRequest):
    task = replace(first_task(request_), killed=(1, 3))
    result = protect_shard(task)
    assert result.outcomes["quarantined:worker_killed"] == 2
    assert probe_photo(ProbeTask(task, 0))


def test_read_ahead_keeps_order_and_hands_over_errors():
    def items():
        yield from range(20)
        raise KeyError("end")

    seen = []
    with pytest.raises(KeyError):
        for item in read_ahead(items()):
            seen.append(item)
    assert seen == list(range(20))
    assert list(read_ahead([None, 1, None])) == [None, 1, None]


@pytest.mark.parametrize("threads", [1, 3])
def test_ordered_map_keeps_order(threads: int):
    assert list(ordered_map(lambda i: i * i, range(50), threads)) == [i * i for i in range(50)]


def test_a_write_that_fails_is_not_forgotten(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError), WriteBehind(Storage(str(tmp_path))) as outputs:
        outputs.write("file/below", b"x")
        outputs.finish()

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_catalogs import HERE, photo_bytes, request_for, run, tree, write_parquet, write_photos
from tiny_defender import write_tiny_defender

from rid.assets.catalog.index import index_source
from rid.assets.catalog.plan import read_current
from rid.assets.catalog.sources import InputChanged
from rid.assets.protection.failure_budget import FailureBudgetExceeded
from rid.assets.protection.options import ProtectionOptions
from rid.assets.protection.run import RowsDoNotAddUp, _check_rows, run_drop
from rid.models.policy import ProtectionPolicy
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.schemas import IMAGE


class Unstarted(Workers):
    """Workers that must not be needed."""

    def client(self, expected: int = 1):
        raise AssertionError("workers were started")


def run_without_workers(request):
    with Unstarted(WorkerSettings()) as workers:
        return run_drop(request, workers)


def modified(url) -> dict[str, int]:
    return {path: Path(f"{url}/{path}").stat().st_mtime_ns for path in tree(url)}


def receipts(request, columns=("key", "status", "reason", "output_path")) -> dict[str, dict]:
    return {row["key"]: row for row in request.target.receipts.read(request.drop, columns).to_pylist()}


@pytest.fixture
def request_(tmp_path: Path):
    write_photos(tmp_path / "photos", 12)
    return request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")


def test_every_photo_has_one_outcome_and_originals_stay(request_, tmp_path: Path):
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    (tmp_path / "photos" / "notes.txt").write_text("ignored")
    before = tree(tmp_path / "photos")
    summary = run(request_)
    assert (summary.photos, summary.protected, summary.skipped, summary.ignored) == (13, 12, 0, 1)
    assert summary.quarantined == {"unsupported_format": 1}
    assert summary.committed and summary.shards_written == summary.shards
    assert tree(tmp_path / "photos") == before
    assert set(tree(tmp_path / "out", without=("_rid",))) == set(before) - {"text.jpg", "notes.txt"}


def test_a_finished_drop_writes_nothing_and_starts_no_workers(request_, tmp_path: Path):
    first = run(request_)
    before = modified(tmp_path / "out")
    again = run_without_workers(request_)
    assert modified(tmp_path / "out") == before
    assert (again.committed, again.shards_written, again.photos_computed) == (False, 0, 0)
    assert (again.protected, again.version) == (first.protected, first.version)


def test_an_added_photo_writes_one_shard_and_is_computed_alone(tmp_path: Path):
    write_photos(tmp_path / "photos", 200)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    first = run(request)
    assert first.shards == 4
    before = modified(tmp_path / "out")
    write_photos(tmp_path / "photos", 1, first=500)
    second = run(request)
    assert (second.photos, second.shards_written, second.photos_computed) == (201, 1, 1)
    after = modified(tmp_path / "out")
    unchanged = {path: when for path, when in before.items() if "_state" not in path}
    assert {path: after[path] for path in unchanged} == unchanged
    new = {path for path in after.keys() - before.keys() if "_state" not in path and "_delta_log" not in path}
    assert "p500.jpg" in new and len(new) == 2

    clean = request_for(tmp_path / "photos", tmp_path / "clean", tmp_path / "defender")
    run(clean)
    assert tree(tmp_path / "clean", without=("_rid",)) == tree(tmp_path / "out", without=("_rid",))


def test_a_deleted_or_resized_output_is_redone(request_, tmp_path: Path):
    run(request_)
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "p002.jpg").unlink()
    (tmp_path / "out" / "p004.jpg").write_bytes(b"short")
    summary = run(request_)
    assert (summary.photos_computed, summary.shards_written, summary.committed) == (2, 0, False)
    assert tree(tmp_path / "out") == before


def test_a_lost_shard_file_is_redone(request_, tmp_path: Path):
    run(request_)
    (path,) = request_.target.receipts.live_files("d1")
    (tmp_path / "out" / "_rid" / path).unlink()
    assert run(request_).shards_written == 1
    assert run_without_workers(request_).committed is False
    assert len(receipts(request_)) == 12


def test_a_photo_that_left_the_source_leaves_the_target(request_, tmp_path: Path):
    run(request_)
    (tmp_path / "photos" / "p002.jpg").unlink()
    (tmp_path / "out" / "mine.txt").write_text("not ours")
    summary = run(request_)
    assert (summary.photos, summary.photos_computed) == (11, 0)
    assert not (tmp_path / "out" / "p002.jpg").exists()
    assert (tmp_path / "out" / "mine.txt").exists()
    assert "p002.jpg" not in receipts(request_)


def test_another_defender_redoes_everything_and_the_history_says_so(request_, tmp_path: Path):
    run(request_)
    first = tree(tmp_path / "out", without=("_rid",))
    write_tiny_defender(tmp_path / "other", seed=3)
    other = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "other")
    assert run(other).photos_computed == 12
    second = tree(tmp_path / "out", without=("_rid",))
    assert first.keys() == second.keys() and all(first[name] != second[name] for name in first)
    commits = [c for c in request_.target.receipts.history() if "defender_digest" in c]
    assert [c["defender_digest"] for c in commits[:2]] == [other.defender.digest, request_.defender.digest]


def test_a_photo_that_is_quarantined_later_is_withdrawn(request_, tmp_path: Path):
    run(request_)
    strict = replace(request_, policy=ProtectionPolicy(min_side=76))
    summary = run(strict)
    assert summary.quarantined == {"too_small": 12}
    assert not tree(tmp_path / "out", without=("_rid",))
    back = run(request_)
    assert (back.protected, back.quarantined) == (12, {})


def test_the_failure_budget_counts_the_whole_drop_over_several_runs(tmp_path: Path):
    write_photos(tmp_path / "photos", 150)
    for i in range(60):
        (tmp_path / "photos" / f"bad{i}.jpg").write_text(f"no picture {i}")
    for kind in ("files", "table"):
        policy = ProtectionPolicy(max_quarantined=10, max_quarantined_share=0.1)
        request = request_for(
            tmp_path / "photos", tmp_path / kind, tmp_path / "defender", policy=policy, target_kind=kind
        )
        for _ in range(6):
            with pytest.raises(FailureBudgetExceeded, match="unsupported_format"):
                run(request)
        assert not request.target.receipts.exists()
        assert len(list(request.target.receipts.storage.list_files("drop=d1"))) >= 1
        relaxed = replace(request, policy=ProtectionPolicy(max_quarantined_share=0.5, max_quarantined=10))
        assert relaxed.salt() == request.salt()
        summary = run(relaxed)
        assert summary.quarantined == {"unsupported_format": 60}
        assert summary.shards_written < summary.shards


def test_retry_tries_quarantined_photos_again(request_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rid.models.protector import Protector

    real = Protector.protect

    def broken(self, data, name="", **options):
        if name == "p004.jpg":
            raise ArithmeticError
        return real(self, data, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Protector, "protect", broken)
        assert run(request_).quarantined == {"internal_error": 1}
    assert run(request_).quarantined == {"internal_error": 1}
    retried = run(replace(request_, retry=("internal_error",)))
    assert (retried.quarantined, retried.photos_computed, retried.committed) == ({}, 1, True)
    assert run_without_workers(request_).quarantined == {}
    with pytest.raises(ValueError, match="reason 'bored' is unknown"):
        ProtectionOptions(retry=("bored",))


def test_two_drops_share_a_target_and_a_name_only_one_of_them_gets(request_, tmp_path: Path):
    run(request_)
    write_photos(tmp_path / "more", 2, first=0)
    write_photos(tmp_path / "more", 2, first=50)
    other = request_for(tmp_path / "more", tmp_path / "out", tmp_path / "defender", drop="d2")
    before = tree(tmp_path / "out", without=("_rid",))
    assert run(other).quarantined == {"name_collision": 2}
    after = tree(tmp_path / "out", without=("_rid",))
    assert {name: after[name] for name in before} == before
    assert len(after) == 14
    assert run_without_workers(request_).protected == 12


def test_a_photo_overwritten_during_the_run_is_planned_again(request_, tmp_path: Path):
    class Overwriting(Workers):
        done = False

        def run(self, function, tasks, *, prefix, expected, **options):
            if prefix == "protect" and not Overwriting.done:
                Overwriting.done = True
                (tmp_path / "photos" / "p002.jpg").write_bytes(photo_bytes(77))
            yield from super().run(function, tasks, prefix=prefix, expected=expected, **options)

    with Overwriting(HERE) as workers:
        summary = run_drop(request_, workers)
    assert summary.protected == 12
    clean = request_for(tmp_path / "photos", tmp_path / "clean", tmp_path / "defender")
    run(clean)
    assert tree(tmp_path / "clean", without=("_rid",)) == tree(tmp_path / "out", without=("_rid",))


def test_a_photo_overwritten_under_an_unchanged_listing_is_found_by_the_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Size and time are those of the catalog: only reading everything again shows what is there."""
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(photo_bytes(number, "TIFF"))
    photo = tmp_path / "photos" / "p.tif"
    photo.parent.mkdir()
    shutil.copy(tmp_path / "0.tif", photo)
    shutil.copy(tmp_path / "2.tif", photo.with_name("q.tif"))
    request = request_for(photo.parent, tmp_path / "out", tmp_path / "defender")
    times = photo.stat().st_atime_ns, photo.stat().st_mtime_ns
    reread: list[bool] = []

    class Overwriting(Workers):
        def run(self, function, tasks, *, prefix, expected, **options):
            if prefix == "protect" and len(reread) == 1:
                photo.write_bytes((tmp_path / "1.tif").read_bytes())
                os.utime(photo, ns=times)
            yield from super().run(function, tasks, prefix=prefix, expected=expected, **options)

    def index(*arguments, rehash: bool, **options):
        reread.append(rehash)
        return index_source(*arguments, rehash=rehash, **options)

    monkeypatch.setattr("rid.assets.protection.run.index_source", index)
    with Overwriting(HERE) as workers:
        summary = run_drop(request, workers)
    assert summary.protected == 2
    assert reread == [False, False, True], "a listing is cheap, reading everything is the last resort"
    clean = request_for(photo.parent, tmp_path / "clean", tmp_path / "defender")
    run(clean)
    assert tree(tmp_path / "clean", without=("_rid",)) == tree(tmp_path / "out", without=("_rid",))


def test_a_source_that_never_rests_is_given_up(request_, tmp_path: Path):
    class Restless(Workers):
        count = 0

        def run(self, function, tasks, *, prefix, expected, **options):
            if prefix == "protect":
                Restless.count += 1
                (tmp_path / "photos" / "p002.jpg").write_bytes(photo_bytes(100 + Restless.count))
            yield from super().run(function, tasks, prefix=prefix, expected=expected, **options)

    with pytest.raises(InputChanged), Restless(HERE) as workers:
        run_drop(request_, workers)


def test_rows_that_do_not_add_up_are_never_committed(request_):
    from collections import Counter

    run(request_)
    catalog = read_current(request_.target.state, "d1")
    assert catalog is not None
    _check_rows(request_, catalog, Counter(protected=12), 12)
    for outcomes, rows in ((Counter(protected=11), 12), (Counter(protected=12), 11), (Counter(lost=12), 12)):
        with pytest.raises(RowsDoNotAddUp):
            _check_rows(request_, catalog, outcomes, rows)


def test_parquet_comes_out_with_its_columns(tmp_path: Path):
    before = write_parquet(tmp_path / "in" / "a.parquet", 150, row_group=40)
    request = request_for(tmp_path / "in", tmp_path / "out", tmp_path / "defender", target_kind="table")
    summary = run(request)
    assert (summary.protected, summary.quarantined) == (150, {})
    after = request.target.receipts.read("d1", ["key", "image", "caption", "label"]).sort_by("key")
    assert after.column("caption").to_pylist() == before.column("caption").to_pylist()
    assert after.column("label").to_pylist() == before.column("label").to_pylist()
    for old, new in zip(before.column("image").to_pylist(), after.column("image").to_pylist(), strict=True):
        assert old["path"] == new["path"] and old["bytes"] != new["bytes"] and new["bytes"][:2] == b"\xff\xd8"
    for path in request.target.receipts.live_files("d1"):
        parquet = pq.ParquetFile(tmp_path / "out" / path)
        assert all(parquet.metadata.row_group(i).num_rows <= 64 for i in range(parquet.num_row_groups))
    assert run_without_workers(request).committed is False


def test_an_appended_parquet_file_leaves_the_others_alone(tmp_path: Path):
    write_parquet(tmp_path / "in" / "a.parquet", 90)
    request = request_for(tmp_path / "in", tmp_path / "out", tmp_path / "defender", target_kind="table")
    run(request)
    write_parquet(tmp_path / "in" / "b.parquet", 5, first=90)
    summary = run(request)
    assert (summary.photos, summary.photos_computed, summary.shards_written) == (95, 5, 1)


def test_names_in_parquet_need_not_be_unique(tmp_path: Path):
    images = [{"bytes": photo_bytes(i), "path": "same.jpg"} for i in range(3)] + [None, {"bytes": None, "path": None}]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": pa.array(images, IMAGE)}), tmp_path / "in" / "b.parquet")
    request = request_for(tmp_path / "in", tmp_path / "out", tmp_path / "defender", target_kind="table")
    assert run(request).quarantined == {"empty": 2}
    write_parquet_like = pa.table({"image": pa.array(images[:1], IMAGE)})
    pq.write_table(write_parquet_like, tmp_path / "in" / "c.parquet")
    summary = run(request)
    assert (summary.protected, summary.photos_computed) == (4, 1)
    rows = request.target.receipts.read("d1", ["key", "image", "status"]).to_pylist()
    protected = {row["key"]: row["image"]["path"] for row in rows if row["status"] == "protected"}
    assert protected == dict.fromkeys(["same.jpg", "same.jpg#2", "same.jpg#3", "same.jpg#4"], "same.jpg")


@pytest.mark.parametrize("layout", ["content", "uri"])
def test_the_other_parquet_layouts(tmp_path: Path, layout: str):
    write_photos(tmp_path / "photos", 4)
    files = sorted(tree(tmp_path / "photos"))
    uris = [str(tmp_path / "photos" / name) for name in files]
    columns = {"uri": [*uris, str(tmp_path / "gone.jpg")]}
    if layout == "content":
        columns = {"path": uris, "content": [Path(uri).read_bytes() for uri in uris]}
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "in" / "a.parquet")
    request = request_for(tmp_path / "in", tmp_path / "out", tmp_path / "defender", target_kind="table")
    if layout == "uri":
        assert run(request).quarantined == {"uri_not_allowed": 5}
    request = replace(request, allowed_prefixes=(str(tmp_path),))
    summary = run(request)
    assert summary.protected == 4
    assert summary.quarantined == ({"unreadable": 1} if layout == "uri" else {})
    name = "path" if layout == "content" else "uri"
    assert sorted(request.target.receipts.read("d1", [name]).column(0).to_pylist()) == sorted(columns[name])


def test_files_into_a_table(request_, tmp_path: Path):
    request = request_for(tmp_path / "photos", tmp_path / "table", tmp_path / "defender", target_kind="table")
    run(request_)
    run(request)
    images = request.target.receipts.read("d1", ["key", "image"]).to_pylist()
    for row in images:
        assert row["image"]["bytes"] == (tmp_path / "out" / row["key"]).read_bytes()


def test_a_name_that_is_not_utf8_is_a_row(request_, tmp_path: Path):
    shutil.copy(tmp_path / "photos" / "p002.jpg", os.fsencode(tmp_path / "photos") + b"/\xff.jpg")
    summary = run(request_)
    assert summary.quarantined == {"unsafe_name": 1}
    assert run_without_workers(request_).committed is False


def test_a_link_out_of_the_source_is_not_read(request_, tmp_path: Path):
    (tmp_path / "secret.jpg").write_bytes(photo_bytes(1234))
    (tmp_path / "photos" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert run(request_).quarantined == {"unreadable": 1}
    assert not (tmp_path / "out" / "link.jpg").exists()

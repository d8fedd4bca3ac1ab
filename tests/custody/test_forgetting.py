"""A photo that is forgotten leaves outputs, receipts, catalogs, reports, caches and, after a vacuum, history."""

import json
from pathlib import Path

import numpy as np
import pytest
from rid_commands import rid
from small_catalogs import HERE, photo_bytes, request_for, run, tree, write_parquet, write_photos

from rid.assets.catalog import plan as drop_plan
from rid.assets.catalog.plan import read_current
from rid.assets.custody import forgetting
from rid.assets.custody.forgetting import forget
from rid.assets.custody.forgotten_training import forget_training
from rid.assets.custody.vacuum import vacuum
from rid.assets.custody.verification import verify_target
from rid.assets.protection.run import catalogue
from rid.assets.protection.targets import NotATarget
from rid.assets.teaching.teacher_cache import DropIndex, Selection, TeacherCache
from rid.resources.commits import ProtectedTable
from rid.resources.dask_workers import Workers
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit

SELECTION = Selection(0.1, 0, "", 1)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>words</x:xmpmeta>"


def files_with(url: str | Path, text: str) -> set[str]:
    """Files whose bytes hold a text, or whose name does. Receipts are not compressed."""
    storage = Storage(str(url))
    return {
        entry.path
        for entry in storage.list_files()
        if text in entry.path or text.encode() in storage.read_bytes(entry.path)
    }


def kinds(result) -> set[str]:
    return {trace.kind for trace in result.left}


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_url")


@pytest.mark.parametrize("kind", ["files", "table"])
def test_one_photo_goes_and_nothing_else_changes(place: str, tmp_path: Path, kind: str):
    write_photos(f"{place}/photos", 70)
    Storage(place).write_bytes("photos/odd/p007.xmp", XMP)
    request = request_for(f"{place}/photos", f"{place}/out", tmp_path / "defender", target_kind=kind)
    run(request)
    request.target.receipts.storage.write_bytes("_rid/_reports/d1/photos.csv", b"odd/p007.jpg")
    before, key = tree(request.target.url), "odd/p007.jpg"
    version = request.target.receipts.version()

    planned = forget(request.target.url, frozenset([key]), dry_run=True)
    assert (planned.drops, planned.deleted, planned.in_source) == ({"d1": 1}, 0, [key])
    assert tree(request.target.url) == before

    result = forget(request.target.url, frozenset([key]))
    assert result.drops == {"d1": 1} and kinds(result) == {"history"} and result.in_source == [key]
    after = tree(request.target.url)
    changed = {name for name, digest in before.items() if after.get(name) != digest}
    gone = {"odd/p007.jpg", "odd/p007.xmp"} if kind == "files" else set()
    assert {name for name in changed if not name.startswith(("_rid", "drop="))} == gone
    assert verify_target(request.target.url).passed
    assert request.target.receipts.read("d1", ["key"]).num_rows == 69
    assert request.target.receipts.version() == version + 1

    removed = vacuum(request.target.url, keep_days=0)
    assert {trace.uri for trace in result.left} <= set(removed)
    again = forget(request.target.url, frozenset([key]))
    assert (again.drops, again.deleted, again.left) == ({}, 0, [])
    assert files_with(request.target.url, "p007") == set()
    assert verify_target(request.target.url).passed


@pytest.mark.parametrize("kind", ["files", "table"])
def test_a_run_without_the_original_has_nothing_left_to_do(tmp_path: Path, kind: str):
    write_photos(tmp_path / "photos", 70)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender", target_kind=kind)
    run(request)
    forget(request.target.url, frozenset(["p002.jpg", "p004.jpg"]))
    for name in ("p002.jpg", "p004.jpg"):
        (tmp_path / "photos" / name).unlink()
    summary = run(request)
    assert (summary.photos, summary.photos_computed, summary.shards_written, summary.committed) == (68, 0, 0, False)


def test_rows_of_a_parquet_source_go_with_their_other_columns(tmp_path: Path):
    write_parquet(tmp_path / "in" / "a.parquet", 5)
    request = request_for(tmp_path / "in", tmp_path / "table", tmp_path / "defender", target_kind="table")
    run(request)
    table = request.target.receipts
    rows = table.read("d1", ["key", "caption", "image"]).to_pylist()
    forget(request.target.url, frozenset([rows[1]["key"]]))
    assert table.read("d1", ["key", "caption", "image"]).to_pylist() == [rows[0], *rows[2:]]
    assert verify_target(request.target.url).passed


def test_a_drop_whose_photos_all_go_is_gone(tmp_path: Path):
    write_photos(tmp_path / "photos", 2)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    run(request)
    result = forget(request.target.url, frozenset(["p000.jpg", "odd/p001.jpg"]))
    assert result.drops == {"d1": 2} and request.target.receipts.drops() == []
    vacuum(request.target.url, keep_days=0)
    assert forget(request.target.url, frozenset(["p000.jpg", "odd/p001.jpg"])).left == []
    assert files_with(request.target.url, "p00") == set()


@pytest.mark.parametrize("where", ["write_catalog_without", "_commit_without", "names_in"])
def test_a_killed_run_is_finished_by_the_next(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch):
    write_photos(tmp_path / "photos", 3)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    run(request)
    step = getattr(forgetting, where)

    def killed(*arguments):
        if where != "names_in":
            step(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(forgetting, where, killed)
        forget(request.target.url, frozenset(["p002.jpg"]))
    result = forget(request.target.url, frozenset(["p002.jpg"]))
    assert kinds(result) == {"history"}
    assert not (tmp_path / "out" / "p002.jpg").exists() and (tmp_path / "out" / "p000.jpg").exists()
    assert verify_target(request.target.url).passed


def test_a_drop_that_is_being_protected_is_refused(tmp_path: Path):
    write_photos(tmp_path / "photos", 3)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    run(request)
    write_photos(tmp_path / "photos", 1, first=8)
    with Workers(HERE) as workers:
        catalogue(request, workers)
    with pytest.raises(ValueError, match="finish `rid protect` first"):
        forget(request.target.url, frozenset(["p002.jpg"]))


def test_the_same_name_goes_from_every_drop_and_from_no_other_photo(tmp_path: Path):
    for drop in ("d1", "d2"):
        Storage(str(tmp_path)).write_bytes(f"{drop}/p000.jpg", photo_bytes(1))
        Storage(str(tmp_path)).write_bytes(f"{drop}/p001.jpg", photo_bytes(2))
        run(request_for(tmp_path / drop, tmp_path / "table", tmp_path / "defender", drop=drop, target_kind="table"))
    assert forget(str(tmp_path / "table"), frozenset(["p000.jpg"])).drops == {"d1": 1, "d2": 1}
    table = ProtectedTable(Storage(str(tmp_path / "table")))
    assert [table.read(drop, ["key"]).column(0).to_pylist() for drop in ("d1", "d2")] == [["p001.jpg"]] * 2


def test_young_files_stay_in_history_and_a_dry_run_removes_nothing(tmp_path: Path):
    write_photos(tmp_path / "photos", 3)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    run(request)
    (tmp_path / "photos" / "p002.jpg").unlink()
    run(request)
    before = tree(request.target.url)
    assert vacuum(request.target.url, keep_days=1) == []
    removed = vacuum(request.target.url, keep_days=0, dry_run=True)
    assert len([uri for uri in removed if "drop=" in uri]) == 1 and len(removed) == 2
    assert {name: before[name] for name in before if "_delta_log" not in name}.items() <= tree(
        request.target.url
    ).items()
    assert vacuum(request.target.url, keep_days=0) == removed
    assert run(request).committed is False and verify_target(request.target.url).passed
    current = read_current(request.target.state, "d1")
    assert current is not None and drop_plan.read_catalog(current).num_rows == 2


def test_what_training_keeps_of_a_drop_goes(store: Storage):
    cache = TeacherCache(store.child("perturbations", "t"))
    for digest in ("a", "b", "c", "unfinished"):
        cache.write_photo(digest, np.zeros((2, 2, 3), np.uint8))
    for digest in ("a", "b", "c"):
        cache.write(digest, np.zeros((1, 2, 2, 3), np.int8))
    cache.write_index("d1", SELECTION, DropIndex("x", 2, (Unit(("a",)), Unit(("b",)))))
    cache.write_index("d2", SELECTION, DropIndex("y", 2, (Unit(("b",)), Unit(("c",)))))
    store.write_bytes("training/run/photos.npz", b"squares")
    store.write_bytes("training/run/log.jsonl", b"{}")
    assert forget_training(store, "d1") == 5
    assert (cache.photos(), cache.addresses()) == ({"b", "c"}, {"b", "c"})
    assert cache.read_index("d1", SELECTION) is None and cache.read_index("d2", SELECTION) is not None
    assert [entry.path for entry in store.child("training").list_files()] == ["run/log.jsonl"]
    assert forget_training(store, "d1") == 0


def test_the_commands_prove_it(tmp_path: Path):
    write_photos(tmp_path / "photos", 3)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    run(request)
    out = str(tmp_path / "out")
    code, printed, _ = rid(tmp_path, "forget", out, "p002.jpg", "--json")
    assert code == 6 and [trace["kind"] for trace in json.loads(printed)["left"]] == ["history"]
    assert json.loads(printed)["in_source"] == ["p002.jpg"]
    code, printed, _ = rid(tmp_path, "forget", out, "p002.jpg")
    assert code == 6 and "rid vacuum" in printed
    code, printed, _ = rid(tmp_path, "vacuum", out, "--keep-days", "0")
    assert code == 0 and "1 files were removed" in printed
    code, printed, _ = rid(tmp_path, "forget", out, "p002.jpg")
    assert code == 0 and "nothing of them is left in the target" in printed
    code, _, error = rid(tmp_path, "forget", str(tmp_path / "photos"), "p002.jpg")
    assert code == 5 and "holds no receipts" in error
    with pytest.raises(NotATarget):
        vacuum(str(tmp_path / "photos"), keep_days=0)
    with pytest.raises(ValueError, match="give 0 or more"):
        vacuum(out, keep_days=-1)

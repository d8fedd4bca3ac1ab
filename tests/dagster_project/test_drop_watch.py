import os
from pathlib import Path

import pytest
from small_catalogs import write_photos

from rid.dagster_project.drop_watch import Completeness, DropWatch, watch_source
from rid.resources.drop_listing import list_drops
from rid.resources.storage import Storage

QUIET, MARKED = Completeness("", 60), Completeness("_COMPLETE", 60)


def look(watch: DropWatch, place: str | Path, now: float, rule: Completeness = QUIET, seconds: float = 100):
    return watch_source(Storage(str(place)), watch, rule, now, seconds)


def ready(watch: DropWatch, place: str | Path, now: float, rule: Completeness = QUIET) -> list[str]:
    found = look(watch, place, now, rule)
    watch.launched(found.ready)
    return found.ready


def test_folders_and_parquet_files_are_drops_on_disk_as_on_s3(place: str) -> None:
    store = Storage(place)
    for name in ("a/1.jpg", "a/deep/2.jpg", "a/_SUCCESS", "a/.hidden/3.jpg", "a-b/1.jpg", "a.parquet", "note.txt"):
        store.write_bytes(name, b"x")
    store.write_bytes("_state/1.jpg", b"x")
    found = {drop.entry: drop for drop in list_drops(store, marker="_SUCCESS")}
    assert set(found) == {"a-b/", "a.parquet", "a/"}
    assert (found["a/"].name, found["a/"].files, found["a/"].marked, found["a/"].is_folder) == ("a", 2, True, True)
    assert (found["a.parquet"].name, found["a.parquet"].files, found["a.parquet"].is_folder) == ("a", 1, False)
    assert not found["a-b/"].marked
    for number, drop in enumerate(found.values(), 1):
        assert [behind.entry for behind in list_drops(store, after=drop.last)] == list(found)[number:]
    store.write_bytes("a/.hidden/4.jpg", b"x")
    assert {drop.entry: drop.fingerprint for drop in list_drops(store)}["a/"] == found["a/"].fingerprint
    store.write_bytes("a/deep/2.jpg", b"xy")
    assert {drop.entry: drop.fingerprint for drop in list_drops(store)}["a/"] != found["a/"].fingerprint


def test_a_drop_is_ready_once_it_was_quiet(tmp_path: Path) -> None:
    watch = DropWatch()
    write_photos(tmp_path / "monday", 2)
    assert look(watch, tmp_path, 0).waiting == ["monday"]
    assert ready(watch, tmp_path, 59) == []
    write_photos(tmp_path / "monday", 1, first=2)
    assert ready(watch, tmp_path, 70) == [], "the quiet period begins again"
    assert ready(watch, tmp_path, 130) == ["monday"]
    assert ready(watch, tmp_path, 200) == []


def test_a_drop_that_changes_later_is_ready_again_even_if_it_changes_back(tmp_path: Path) -> None:
    watch = DropWatch()
    write_photos(tmp_path / "monday", 1)
    look(watch, tmp_path, 0)
    assert ready(watch, tmp_path, 60) == ["monday"]
    extra = tmp_path / "monday" / "extra.jpg"
    extra.write_bytes(b"x")
    look(watch, tmp_path, 100)
    assert ready(watch, tmp_path, 160) == ["monday"]
    extra.unlink()
    look(watch, tmp_path, 200)
    assert ready(watch, tmp_path, 260) == ["monday"]


def test_a_marker_says_that_a_new_drop_is_complete(tmp_path: Path) -> None:
    watch = DropWatch()
    write_photos(tmp_path / "monday", 1)
    assert ready(watch, tmp_path, 0, MARKED) == []
    assert ready(watch, tmp_path, 1000, MARKED) == []
    (tmp_path / "monday" / "_COMPLETE").touch()
    assert ready(watch, tmp_path, 1001, MARKED) == ["monday"]
    write_photos(tmp_path / "monday", 1, first=2)
    assert ready(watch, tmp_path, 1002, MARKED) == [], "the marker says nothing of what came after it"
    assert ready(watch, tmp_path, 1062, MARKED) == ["monday"]


@pytest.mark.parametrize("name", ["my photos", "späť", "x" * 121])
def test_an_entry_whose_name_is_not_allowed_is_no_drop(tmp_path: Path, name: str) -> None:
    write_photos(tmp_path / name, 1)
    found = look(DropWatch(), tmp_path, 0)
    assert (found.ready, found.waiting) == ([], [])
    assert "not allowed" in found.refused[f"{name}/"]


def test_of_a_folder_and_a_file_of_one_name_the_folder_is_the_drop(tmp_path: Path) -> None:
    watch = DropWatch()
    write_photos(tmp_path / "a", 1)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    look(watch, tmp_path, 0)
    found = look(watch, tmp_path, 60)
    assert watch.drops["a"].entry == "a/"
    assert "same name" in found.refused["a.parquet"]
    assert found.ready == ["a"]


def test_a_large_source_is_looked_at_in_turns(tmp_path: Path) -> None:
    watch = DropWatch()
    for name in ("a", "b", "c"):
        write_photos(tmp_path / name, 1)
    seen = []
    for _ in range(4):
        found = look(watch, tmp_path, 0, seconds=-1)
        seen.append((found.waiting, watch.resume))
    assert seen == [(["a"], "a/p000.jpg"), (["b"], "b/p000.jpg"), (["c"], "c/p000.jpg"), ([], "")]
    assert ready(watch, tmp_path, 60) == ["a", "b", "c"]


def test_a_drop_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    watch = DropWatch()
    write_photos(tmp_path / "a", 1)
    look(watch, tmp_path, 0)
    (tmp_path / "a" / "p000.jpg").rename(tmp_path / "p000.jpg")
    look(watch, tmp_path, 1)
    assert watch.drops == {}


def test_the_state_comes_back_from_text(tmp_path: Path) -> None:
    watch = DropWatch()
    write_photos(tmp_path / "a", 1)
    look(watch, tmp_path, 0)
    again = DropWatch.from_json(watch.to_json())
    assert (again.drops, again.resume) == (watch.drops, watch.resume)
    assert again.to_json() == watch.to_json()
    os.utime(tmp_path / "a" / "p000.jpg", (1, 1))
    look(again, tmp_path, 5)
    assert again.to_json() != watch.to_json()

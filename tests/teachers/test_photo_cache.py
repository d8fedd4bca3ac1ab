"""Squares are cut once, named by what they hold, read from files, and go when nothing needs them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from odd_photos import encoded, photograph
from small_catalogs import HERE, photo_bytes, request_for, write_parquet, write_photos

from rid.assets.catalog.plan import DropCatalog, read_catalog
from rid.assets.catalog.squares import read_squares
from rid.assets.custody.forgotten_training import forget_training
from rid.assets.protection.run import catalogue
from rid.assets.teaching import photo_cache
from rid.assets.teaching.photo_cache import PhotoCache, cut_squares
from rid.assets.teaching.run_photos import RUN_PHOTOS, Perturbed, load_photo_set, plan_photos, release_photos
from rid.assets.teaching.teacher_cache import TeacherCache
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.records import CatalogRow, read_records
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit, photo_digest

SIDE = 24


def catalog_of(source: str | Path, folder: Path, drop: str = "d1") -> DropCatalog:
    """Catalogues a source as `rid protect` does."""
    with Workers(HERE) as workers:
        return catalogue(request_for(source, folder / "out", folder / "defender", drop=drop), workers)


def squares_of(catalog: DropCatalog) -> list[np.ndarray]:
    """Returns what the reader gives, photo by photo."""
    rows = read_records(CatalogRow, read_catalog(catalog))
    return [photo.square for photo in read_squares(rows, SIDE)]


def cut(home: Storage | str, catalog: DropCatalog, side: int = SIDE) -> list[photo_cache.SquareShard]:
    place = Storage(home) if isinstance(home, str) else home
    with Workers(HERE) as workers:
        return PhotoCache(place, side).cut(workers, catalog)


def files_in(home: Storage) -> dict[str, str]:
    return {entry.path: hashlib.sha256(home.read_bytes(entry.path)).hexdigest() for entry in home.list_files()}


def test_squares_from_files_are_those_that_the_reader_gives(store: Storage, tmp_path: Path) -> None:
    """On disk and on S3; photos that cannot be decoded are left out and counted."""
    write_photos(tmp_path / "photos", 9)
    Storage(str(tmp_path / "photos")).write_bytes("cut.jpg", photo_bytes(3)[:900])
    Storage(str(tmp_path / "photos")).write_bytes("no.jpg", b"no photo")
    catalog = catalog_of(tmp_path / "photos", tmp_path)
    shards = cut(store, catalog)
    assert [(shard.rows, shard.photos) for shard in shards] == [(11, 9)]
    expected = squares_of(catalog)
    cache = PhotoCache(store, SIDE)
    squares = cache.open([shard.name for shard in shards], tmp_path / "fetched")
    assert (squares.shape, squares.dtype) == ((9, SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(squares[:], np.stack(expected))
    index = cache.index(shards[0].name)
    assert index.digests == [photo_digest(square) for square in expected]
    assert len(set(index.rows)) == 9 and max(index.rows) < 11
    assert (tmp_path / "fetched").exists() == store.is_s3  # what lies on a disk here is mapped where it lies


def test_what_is_there_is_not_cut_again_and_what_is_new_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, rows = Storage(str(tmp_path / "home")), 700
    write_photos(tmp_path / "photos", 5)
    for i in range(5, rows):  # equal bytes under many names, which is quick to write
        Storage(str(tmp_path / "photos")).write_bytes(f"q{i:04d}.jpg", photo_bytes(i % 7))
    first = cut(home, catalog_of(tmp_path / "photos", tmp_path))
    assert len(first) == 3 and sum(shard.photos for shard in first) == rows
    before, done = files_in(home), []
    monkeypatch.setattr(photo_cache, "cut_squares", lambda task: done.append(task) or cut_squares(task))
    assert cut(home, catalog_of(tmp_path / "photos", tmp_path)) == first
    assert done == [] and files_in(home) == before
    write_photos(tmp_path / "photos", 1, first=8)
    grown = cut(home, catalog_of(tmp_path / "photos", tmp_path))
    assert len(done) == 1 and len(set(grown) & set(first)) == 2
    assert before.items() <= files_in(home).items()


def test_equal_photos_are_cut_once_and_sides_lie_apart(tmp_path: Path) -> None:
    home = Storage(str(tmp_path / "home"))
    for drop in ("one", "two"):
        write_parquet(tmp_path / drop / "a.parquet", 12)
    one, two = (catalog_of(tmp_path / drop, tmp_path / f"{drop}-state", drop) for drop in ("one", "two"))
    assert [shard.name for shard in cut(home, one)] == [shard.name for shard in cut(home, two)]
    assert len(files_in(home)) == 2
    assert cut(home, one, side=32)[0].name != cut(home, one)[0].name
    assert {path.split("/")[2] for path in files_in(home)} == {"24", "32"}


def test_another_reader_gives_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos", 2)
    catalog = catalog_of(tmp_path / "photos", tmp_path)
    (before,) = PhotoCache(Storage(str(tmp_path)), SIDE).tasks(catalog)
    monkeypatch.setattr(photo_cache, "READER_EPOCH", 10**6)
    (after,) = PhotoCache(Storage(str(tmp_path)), SIDE).tasks(catalog)
    assert before.name != after.name


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_killed_task_leaves_no_file_that_is_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    write_photos(tmp_path / "photos", 3)
    catalog, home = catalog_of(tmp_path / "photos", tmp_path), str(tmp_path / "home")
    write = Storage.write_file

    def killed(storage: Storage, path: str, local: Path) -> None:
        if dies == "after":
            write(storage, path, local)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Storage, "write_file", killed)
        cut(home, catalog)
    assert sum(PhotoCache(Storage(home), SIDE).photos().values()) == (3 if dies == "after" else 0)
    (shard,) = cut(home, catalog)
    assert shard.photos == 3 and len(PhotoCache(Storage(home), SIDE).index(shard.name).digests) == 3


def test_worker_processes_cut_what_this_process_cuts(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", 800, row_group=100)
    catalog = catalog_of(tmp_path / "in", tmp_path)
    here = cut(str(tmp_path / "here"), catalog)
    with Workers(WorkerSettings(n_workers=2, use_gpus=False)) as workers:
        there = PhotoCache(Storage(str(tmp_path / "there")), SIDE).cut(workers, catalog)
    assert here == there and len(here) > 1
    assert files_in(Storage(str(tmp_path / "here"))) == files_in(Storage(str(tmp_path / "there")))


def test_grey_and_turned_photos_become_upright_colour(tmp_path: Path) -> None:
    source = Storage(str(tmp_path / "photos"))
    source.write_bytes("grey.png", encoded(photograph().convert("L"), "PNG"))
    source.write_bytes("wide.jpg", encoded(photograph(seed=1)))
    (shard,) = cut(str(tmp_path / "home"), catalog_of(tmp_path / "photos", tmp_path))
    squares = PhotoCache(Storage(str(tmp_path / "home")), SIDE).open([shard.name], tmp_path)[:]
    assert squares.shape == (2, SIDE, SIDE, 3)
    grey = [bool((square == square[..., :1]).all()) for square in squares]
    assert sorted(grey) == [False, True]


# --- what one training reads


def perturbed(home: Storage, squares: np.ndarray, chosen: list[int], budget: int = 8) -> Perturbed:
    """Perturbations of some squares, each of which says in its first level which square it belongs to."""
    cache = TeacherCache(home.child("perturbations", "teacher"))
    units = []
    for place in chosen:
        digest = photo_digest(squares[place])
        cache.write(digest, np.full((1, *squares.shape[1:]), place % budget - 1, np.int8))
        units.append(Unit((digest,)))
    return Perturbed(cache, tuple(units), budget)


def prepared(home: Storage, catalogs: dict[str, DropCatalog], some: Perturbed | None = None, run: str = "run"):
    plan = plan_photos(home, SIDE, catalogs, some)
    storage = home.child("training", run)
    with Workers(HERE) as workers:
        return plan.prepare(workers, storage), storage, plan


def test_a_training_reads_squares_and_their_perturbations_from_files(store: Storage, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    write_parquet(tmp_path / "in" / "a.parquet", 80, first=20)
    catalogs = {
        "folder": catalog_of(tmp_path / "photos", tmp_path / "1", "folder"),
        "table": catalog_of(tmp_path / "in", tmp_path / "2", "table"),
    }
    squares = np.stack([square for catalog in catalogs.values() for square in squares_of(catalog)])
    some = perturbed(store, squares, [70, 2, 5, 85])
    counts, run, plan = prepared(store, catalogs, some)
    assert (counts.photos, counts.left_out, counts.perturbations) == (86, 0, 4)
    photos = load_photo_set(store, run, tmp_path / "fetched")
    assert np.array_equal(photos.pixels[:], squares)
    assert photos.teacher_index.tolist() == [2, 5, 70, 85] and photos.teacher_budget == 8
    assert [int(photos.perturbation(pair)[0, 0, 0]) for pair in range(4)] == [1, 4, 5, 4]
    before = files_in(store)
    again, _, same = prepared(store, catalogs, some)
    assert again == counts and same.digest() == plan.digest()
    assert files_in(store) == before
    other = load_photo_set(store, run, tmp_path / "other")
    assert (other.photos_digest(), other.teacher_digest()) == (photos.photos_digest(), photos.teacher_digest())


def test_the_digest_of_a_plan_is_that_of_photos_and_perturbations(tmp_path: Path) -> None:
    home = Storage(str(tmp_path / "home"))
    write_photos(tmp_path / "photos", 4)
    catalog = catalog_of(tmp_path / "photos", tmp_path)
    squares = np.stack(squares_of(catalog))
    plans = [
        plan_photos(home, SIDE, {"d1": catalog}),
        plan_photos(home, 32, {"d1": catalog}),
        plan_photos(home, SIDE, {"d1": catalog}, perturbed(home, squares, [0])),
        plan_photos(home, SIDE, {"d1": catalog}, perturbed(home, squares, [0, 1])),
        plan_photos(home, SIDE, {"d1": catalog}, perturbed(home, squares, [0], budget=4)),
    ]
    assert len({plan.digest() for plan in plans}) == 5
    assert plans[0].digest() == plan_photos(home, SIDE, {"other name": catalog}).digest()
    (tmp_path / "photos" / "p000.jpg").write_bytes(photo_bytes(77))
    changed = catalog_of(tmp_path / "photos", tmp_path)
    assert plan_photos(home, SIDE, {"d1": changed}).digest() != plans[0].digest()


def test_a_perturbation_that_does_not_fit_is_refused_when_it_is_gathered(tmp_path: Path) -> None:
    home = Storage(str(tmp_path / "home"))
    write_photos(tmp_path / "photos", 3)
    catalogs = {"d1": catalog_of(tmp_path / "photos", tmp_path)}
    squares = np.stack(squares_of(catalogs["d1"]))
    some = perturbed(home, squares, [1])
    digest = photo_digest(squares[1])
    some.cache.write(digest, np.full((1, SIDE, SIDE, 3), -9, np.int8))
    with pytest.raises(ValueError, match="exceeds the budget it claims"):
        prepared(home, catalogs, some)
    some.cache.write(digest, np.zeros((1, 8, 8, 3), np.int8))
    with pytest.raises(ValueError, match=r"an item is int8 \(8, 8, 3\) where int8 \(24, 24, 3\) is needed"):
        prepared(home, catalogs, some)


def test_a_drop_without_a_photo_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    Storage(str(tmp_path / "photos")).write_bytes("a.jpg", photo_bytes(1)[:700])
    with pytest.raises(ValueError, match="none of 1 photos can be decoded"):
        prepared(Storage(str(tmp_path / "home")), {"d1": catalog_of(tmp_path / "photos", tmp_path)})


def squares_left(home: Storage) -> int:
    return sum(entry.path.endswith(".npy") for entry in home.child("training", "squares").list_files())


def test_a_finished_training_takes_its_squares_with_it_unless_another_needs_them(
    store: Storage, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 3)
    write_photos(tmp_path / "more", 2, first=50)
    one = catalog_of(tmp_path / "photos", tmp_path / "1", "one")
    two = catalog_of(tmp_path / "more", tmp_path / "2", "two")
    squares = np.stack(squares_of(one))
    _, first, _ = prepared(store, {"one": one}, perturbed(store, squares, [0]), run="first")
    _, second, _ = prepared(store, {"one": one, "two": two}, run="second")
    assert squares_left(store) == 2
    assert release_photos(store, first) == 2  # its perturbations and its list
    assert squares_left(store) == 2 and load_photo_set(store, second, tmp_path / "f").pixels.shape[0] == 5
    assert release_photos(store, second) == 5
    assert squares_left(store) == 0 and release_photos(store, second) == 0
    assert not any("training" in path for path in files_in(store))


def test_a_run_that_is_killed_while_it_cuts_is_known_before_its_first_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Storage(str(tmp_path / "home"))
    write_photos(tmp_path / "photos", 3)
    catalog = catalog_of(tmp_path / "photos", tmp_path)

    def killed(task: photo_cache.SquaresTask) -> int:
        cut_squares(task)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(photo_cache, "cut_squares", killed)
        prepared(home, {"d1": catalog})
    assert squares_left(home) == 1
    assert release_photos(home, home.child("training", "run")) == 3
    assert squares_left(home) == 0


def test_forgetting_a_drop_takes_its_squares_and_those_no_run_needs(store: Storage, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 3)
    write_photos(tmp_path / "more", 2, first=50)
    write_photos(tmp_path / "loose", 2, first=60)
    one, two, loose = (
        catalog_of(tmp_path / name, tmp_path / f"{name}-state", drop)
        for name, drop in (("photos", "one"), ("more", "two"), ("loose", "loose"))
    )
    squares = np.stack(squares_of(one))
    prepared(store, {"one": one}, perturbed(store, squares, [0]), run="first")
    _, second, _ = prepared(store, {"two": two}, run="second")
    cut(store, loose)
    second.write_bytes("log.jsonl", b"{}")
    store.write_bytes("training/earlier/photos.npz", b"squares")
    assert squares_left(store) == 3
    forget_training(store, "one")
    left = {path for path in files_in(store) if path.startswith("training/")}
    named = json.loads(second.read_bytes(RUN_PHOTOS))["drops"]["two"]
    assert left == {
        f"training/second/{RUN_PHOTOS}",
        "training/second/log.jsonl",
        *(f"training/squares/{SIDE}/{name}.{kind}" for name in named for kind in ("npy", "json")),
    }
    assert load_photo_set(store, second, tmp_path / "fetched").pixels.shape[0] == 2
    assert forget_training(store, "one") == 0


def test_a_training_over_several_drops_loses_what_a_forgotten_one_shares(tmp_path: Path) -> None:
    home = Storage(str(tmp_path / "home"))
    write_photos(tmp_path / "photos", 3)
    write_photos(tmp_path / "more", 2, first=50)
    catalogs = {
        "one": catalog_of(tmp_path / "photos", tmp_path / "1", "one"),
        "two": catalog_of(tmp_path / "more", tmp_path / "2", "two"),
    }
    _, run, _ = prepared(home, catalogs)
    forget_training(home, "two")
    assert squares_left(home) == 0 and not run.exists(RUN_PHOTOS)
    counts, _, _ = prepared(home, catalogs)  # it is made again when it is needed
    assert counts.photos == 5


def test_squares_that_went_while_a_training_waited_are_named_in_one_sentence(tmp_path: Path) -> None:
    home = Storage(str(tmp_path / "home"))
    write_photos(tmp_path / "photos", 3)
    _, run, plan = prepared(home, {"d1": catalog_of(tmp_path / "photos", tmp_path)})
    plan.cache.delete(plan.names["d1"])
    with pytest.raises(ValueError, match="is missing: it was removed meanwhile; run again"):
        load_photo_set(home, run, tmp_path / "fetched")

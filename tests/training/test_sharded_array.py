import threading
from pathlib import Path

import numpy as np
import pytest
from training_runs import CONFIG, SIDE, make_batch, small_photo_set

from rid.training.photo_set import PhotoSet
from rid.training.sharded_array import MAPPED_FILES, ShardedArray, content_digest


def write_shards(folder: Path, array: np.ndarray, *counts: int, name: str = "part") -> list[Path]:
    """Cuts an array into files of some lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    assert sum(counts) == len(array)
    files, start = [], 0
    for number, count in enumerate(counts):
        files.append(folder / f"{name}{number}.npy")
        np.save(files[-1], array[start : start + count])
        start += count
    return files


def mapped_files() -> set[str]:
    """The .npy files that this process has mapped."""
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".npy")}


def test_files_read_as_one_array(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), dtype=np.uint8)
    sharded = ShardedArray(write_shards(tmp_path, array, 3, 0, 5, 1, 0, 2), (4, 4, 3), np.uint8)
    assert (sharded.shape, len(sharded), sharded.counts()) == (array.shape, 11, [3, 0, 5, 1, 0, 2])
    for index in (*range(11), -1, -11):
        assert np.array_equal(sharded[index], array[index]), index
    for several in (slice(2, 9), slice(None), slice(0, 0), np.array([10, 0, 4, 4])):
        assert np.array_equal(sharded[several], array[several])
    for outside in (11, -12):
        with pytest.raises(IndexError):
            sharded[outside]
    assert ShardedArray([], (4, 4, 3), np.int8).shape == (0, 4, 4, 3)


def test_a_reader_keeps_few_bytes_mapped_however_many_it_reads(tmp_path: Path) -> None:
    array = np.arange(40, dtype=np.uint8).reshape(40, 1)
    sharded = ShardedArray(write_shards(tmp_path, array, *[1] * 40), (1,), np.uint8, mapped=4)
    before = mapped_files()
    assert [int(sharded[i][0]) for i in range(40)] == list(range(40))
    assert len(mapped_files() - before) == 4
    assert not any(Path(link).suffix == ".npy" for link in open_files() if str(tmp_path / "part0") in link)


def test_many_small_files_hold_few_descriptors(tmp_path: Path) -> None:
    array = np.arange(100, dtype=np.uint8).reshape(100, 1)
    sharded = ShardedArray(write_shards(tmp_path, array, *[1] * 100), (1,), np.uint8)
    assert [int(sharded[i][0]) for i in range(100)] == list(range(100))
    assert sum(link.startswith(str(tmp_path)) for link in open_files()) == MAPPED_FILES


def open_files() -> list[str]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:
            continue  # the one that listed the folder
    return links


def test_threads_read_together(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, (60, 8), dtype=np.uint8)
    sharded = ShardedArray(write_shards(tmp_path, array, *[2] * 30), (8,), np.uint8, mapped=2)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 60, 400):
            if not np.array_equal(sharded[index], array[index]):
                wrong.append(int(index))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    array = np.zeros((3, 2, 2, 3), np.uint8)
    (file,) = write_shards(tmp_path, array, 3)
    with pytest.raises(ValueError, match=r"holds uint8 of \(2, 2, 3\) where uint8 of \(4, 4, 3\) is needed"):
        ShardedArray([file], (4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="where int8 of"):
        ShardedArray([file], (2, 2, 3), np.int8)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 163 bytes where its header says 164"):
        ShardedArray([file], (2, 2, 3), np.uint8)
    file.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"is no .npy file"):
        ShardedArray([file], (2, 2, 3), np.uint8)
    file.unlink()
    with pytest.raises(ValueError, match="is missing: it was removed meanwhile"):
        ShardedArray([file], (2, 2, 3), np.uint8)


def test_a_file_that_goes_while_it_is_read_is_named(tmp_path: Path) -> None:
    files = write_shards(tmp_path, np.zeros((2, 3), np.uint8), 1, 1)
    sharded = ShardedArray(files, (3,), np.uint8)
    files[1].unlink()
    assert sharded[0].shape == (3,)
    with pytest.raises(ValueError, match=r"part1\.npy is missing"):
        sharded[1]


def test_the_digest_comes_from_names_and_changes_with_content_and_order(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(4, 3)
    first = write_shards(tmp_path / "a", array, 2, 2)
    again = write_shards(tmp_path / "b", array, 2, 2)
    digest = content_digest(ShardedArray(first, (3,), np.uint8))
    assert digest == content_digest(ShardedArray(again, (3,), np.uint8))
    assert digest != content_digest(ShardedArray(first[::-1], (3,), np.uint8))
    assert digest != content_digest(ShardedArray(first[:1], (3,), np.uint8))
    assert content_digest(array) == content_digest(array.copy()) != content_digest(array[::-1])


def sharded_set(folder: Path, photos: PhotoSet, budget: int) -> PhotoSet:
    """The same set, in files."""
    item = photos.pixels.shape[1:]
    pixels = ShardedArray(write_shards(folder / "pixels", np.asarray(photos.pixels), 1, 3, 2), item, np.uint8)
    teacher = ShardedArray(write_shards(folder / "teacher", np.asarray(photos.teacher), 2, 1), item, np.int8)
    return PhotoSet(pixels, photos.teacher_index, teacher, budget)


def test_batches_from_files_have_the_bits_of_batches_from_memory(tmp_path: Path) -> None:
    photos = small_photo_set()
    files = sharded_set(tmp_path, photos, photos.teacher_budget)
    for step in range(6):
        one, other = make_batch(photos, CONFIG, step), make_batch(files, CONFIG, step)
        for name in ("image", "pair_image", "pair_perturbation", "budget_levels", "pair_budget_levels"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert files.side == SIDE + 4
    again = sharded_set(tmp_path / "again", photos, photos.teacher_budget)
    assert (files.photos_digest(), files.teacher_digest()) == (again.photos_digest(), again.teacher_digest())
    other = sharded_set(tmp_path / "other", photos, 9)
    assert files.photos_digest() == other.photos_digest() != photos.photos_digest()
    assert len({files.teacher_digest(), other.teacher_digest(), photos.teacher_digest()}) == 3


def test_a_perturbation_in_a_file_is_held_against_the_budget_when_it_is_read(tmp_path: Path) -> None:
    photos = small_photo_set()
    files = sharded_set(tmp_path, photos, 4)
    with pytest.raises(ValueError, match="exceeds the budget it claims"):
        for step in range(6):
            make_batch(files, CONFIG, step)

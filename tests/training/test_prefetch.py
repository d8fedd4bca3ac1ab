import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import CONFIG, random_model, small_photo_set

from rid.training import batches, trainer
from rid.training.photo_set import PhotoSet
from rid.training.prefetch import BatchLate, Prefetch


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_items_come_once_each_and_in_order() -> None:
    with Prefetch(lambda step: step * step, range(3, 40), ahead=2) as items:
        assert [items.take() for _ in range(3, 40)] == [step * step for step in range(3, 40)]
        with pytest.raises(IndexError, match="all 37 batches were taken"):
            items.take()
    assert batch_threads() == []


def test_few_items_wait() -> None:
    with Prefetch(lambda step: step, range(100), ahead=3) as items:
        deadline = time.monotonic() + 20
        while items.made < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert items.made == 3
        items.take()
        while items.made < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert items.made == 4
    assert batch_threads() == []


def test_what_goes_wrong_in_the_thread_is_raised_where_the_item_is_taken() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("no photo 2")
        return step

    with Prefetch(make, range(10)) as items:
        assert [items.take(), items.take()] == [0, 1]  # those made before are not lost
        for _ in range(2):
            with pytest.raises(ValueError, match="no photo 2"):
                items.take()
    assert batch_threads() == []


def test_an_item_that_does_not_come_ends_the_wait_with_a_sentence() -> None:
    release = threading.Event()

    def make(step: int) -> int:
        release.wait(30)
        return step

    with Prefetch(make, range(5, 9), deadline=0.2) as items:
        with pytest.raises(BatchLate, match="the batch of step 5 was not there after 0 s: check that the disk"):
            items.take()
        release.set()
    assert batch_threads() == []


def test_leaving_early_stops_the_thread() -> None:
    for taken in (0, 1):
        with pytest.raises(RuntimeError, match="enough"), Prefetch(lambda step: step, range(10**9)) as items:
            for _ in range(taken):
                items.take()
            raise RuntimeError("enough")
        assert batch_threads() == []


def test_no_step_is_no_item() -> None:
    with Prefetch(lambda step: step, range(7, 7)) as items, pytest.raises(IndexError):
        items.take()


def test_a_photo_that_cannot_be_read_ends_the_training_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real trainer over real photos; the fifth step's read fails as a disk's would."""
    read = PhotoSet.photo
    count = 0

    def failing(photos: PhotoSet, index: int) -> object:
        nonlocal count
        count += 1
        if count > 4 * (CONFIG.batch + CONFIG.pair_batch):
            raise OSError(5, "Input/output error")
        return read(photos, index)

    monkeypatch.setattr(PhotoSet, "photo", failing)
    records: list[dict[str, object]] = []
    torch.set_num_threads(1)
    with pytest.raises(OSError, match="Input/output error"):
        trainer.train_defender(
            replace(CONFIG, checkpoint_every=2), small_photo_set(), [random_model()], tmp_path, on_step=records.append
        )
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert batch_threads() == []


def test_the_trainer_takes_batches_from_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, str]] = []
    draw = batches.draw_batch

    def watched(photos: PhotoSet, config: object, step: int, **part: int) -> object:
        drawn.append((step, threading.current_thread().name))
        return draw(photos, config, step, **part)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "draw_batch", watched)
    torch.set_num_threads(1)
    trainer.train_defender(replace(CONFIG, steps=4), small_photo_set(), [random_model()], tmp_path)
    assert drawn == [(step, "batches") for step in range(4)]

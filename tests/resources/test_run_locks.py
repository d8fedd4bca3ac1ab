"""Runs of one drop on disk wait for each other, say so, and do not wait for ever."""

import logging
import threading
import time
from pathlib import Path

import pytest

from rid.resources import run_locks
from rid.resources.run_locks import DropLocked, run_lock
from rid.resources.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "drop"))


def test_one_run_at_a_time(folder: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(run_locks, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(run_locks, "REPORT_SECONDS", 0.1)
    caplog.set_level(logging.WARNING, "rid")
    order: list[str] = []
    first_is_in = threading.Event()

    def first() -> None:
        with run_lock(folder, "monday"):
            first_is_in.set()
            time.sleep(0.5)
            order.append("first is out")

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_in.wait(30)
    with run_lock(folder, "monday"):
        order.append("second is in")
    thread.join(30)
    assert order == ["first is out", "second is in"]
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "another run writes drop monday into this target: waiting for its end"
    assert len(said) > 1 and all("waiting for its end, for" in text for text in said[1:])


def test_a_run_that_never_ends_is_given_up_with_a_sentence(folder: Storage) -> None:
    with (
        run_lock(folder, "monday"),
        pytest.raises(DropLocked, match=r"^another run has been writing drop 'monday' into this target for \d+ s and"),
        run_lock(folder, "monday", longest=0.3),
    ):
        raise AssertionError("the lock was given twice")
    with run_lock(folder, "monday", longest=0.3):
        pass

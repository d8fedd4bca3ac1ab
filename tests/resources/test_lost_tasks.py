"""A run that loses tasks, results or workers: it goes on, says what it waits for, and ends at last."""

import logging
import os
import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_functions import Job, trace, wait_for_go

from rid.resources.bounded_run import Patience, run_bounded
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.scheduler_state import WorkersUnavailable

SHORT = Patience(look=0.3, fetch=3, report=0.5, idle=90, busy=180)


def embedded(n_workers: int) -> Workers:
    return Workers(WorkerSettings(n_workers=n_workers, use_gpus=False), SHORT)


def worker_processes() -> list[psutil.Process]:
    """The worker processes of this process, those that are starting among them."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it may end at any moment
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def worker_pids() -> list[int]:
    return [process.pid for process in worker_processes()]


def until(condition: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
    return found


@contextmanager
def killer(kills: int, spared: Collection[int] = ()) -> Iterator[list[int]]:
    """Kills worker processes as soon as they are there, as often as it is told; yields the list of the dead.

    Args:
        kills: how many.
        spared: processes of clusters that earlier tests left to their session.
    """
    dead: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set() and len(dead) < kills:
            for process in worker_processes():
                if process.pid not in (*spared, *dead) and len(dead) < kills:
                    process.kill()
                    dead.append(process.pid)
            time.sleep(0.01)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield dead
    stop.set()
    thread.join(30)


@contextmanager
def held_task(client: Any, folder: Path, patience: Patience = SHORT) -> Iterator[tuple[Any, str]]:
    """A run that waits for the one task that is left, and the key of that task."""
    jobs = [Job("held", str(folder)), Job("first", str(folder))]
    run = run_bounded(client, wait_for_go, jobs, prefix="lost", window=2, patience=patience)
    assert next(run).task.name == "first"
    (key,) = (key for found in client.processing().values() for key in found)
    yield run, key
    run.close()


@pytest.fixture
def client() -> Iterator[Any]:
    with embedded(2) as workers:
        workers.client(2).wait_for_workers(2, timeout=90)
        yield workers.client(2)


def test_a_result_that_its_worker_does_not_hand_out_is_computed_again(client: Any, tmp_path: Path, caplog: Any):
    with held_task(client, tmp_path) as (run, key):
        (tmp_path / "go").touch()
        (holder,) = until(lambda: client.who_has()[key])
        process = psutil.Process(client.run(os.getpid)[holder])
        process.suspend()
        (done,) = run
        process.kill()
    assert (done.result, done.killed) == ("held", False)
    assert (tmp_path / "held").read_text() == "xx"
    assert "its result did not come within 3 s" in caplog.text


def test_a_task_that_the_scheduler_forgot_is_computed_again(client: Any, tmp_path: Path, caplog: Any):
    from distributed import Client, Future

    with held_task(client, tmp_path) as (run, key):
        with Client(client.scheduler.address, security=client.security, set_as_default=False) as other:
            Future(key, client=other).cancel(force=True)
        (tmp_path / "go").touch()
        (done,) = run
    assert done.result == "held"
    assert "the scheduler forgot it" in caplog.text


def test_a_task_that_vanished_without_a_word_is_computed_again(client: Any, tmp_path: Path, caplog: Any):
    def forget(dask_scheduler: Any, key: str, name: str) -> None:
        dask_scheduler.client_releases_keys(keys=[key], client=name)

    with held_task(client, tmp_path) as (run, key):
        client.run_on_scheduler(forget, key=key, name=client.id)
        (tmp_path / "go").touch()
        (done,) = run
    assert done.result == "held"
    assert "no worker has it, and none is to get it" in caplog.text


def test_a_task_that_is_lost_again_and_again_ends_the_run(client: Any, tmp_path: Path):
    def forget_all(dask_scheduler: Any, name: str) -> None:
        dask_scheduler.client_releases_keys(keys=[k for k in dask_scheduler.tasks if k.startswith("lost")], client=name)

    jobs = [Job("held", str(tmp_path))]
    run = run_bounded(client, wait_for_go, jobs, prefix="lost", window=2, patience=SHORT, retries=1)
    stop = threading.Event()

    def keep_forgetting() -> None:
        while not stop.wait(0.05):
            client.run_on_scheduler(forget_all, name=client.id)

    thread = threading.Thread(target=keep_forgetting, daemon=True)
    thread.start()
    with pytest.raises(WorkersUnavailable, match="a task was lost 2 times, and at last no worker has it"):
        list(run)
    stop.set()
    thread.join(30)
    (tmp_path / "go").touch()


def test_a_worker_that_is_killed_while_the_cluster_starts_does_not_end_the_run(tmp_path: Path, caplog: Any):
    with killer(1, worker_pids()) as dead, embedded(2) as workers:
        done = list(workers.run(trace, [Job("a", str(tmp_path))], prefix="start", expected=2))
    assert len(dead) == 1
    assert [completed.result for completed in done] == ["a"]
    assert "a worker process did not start" in caplog.text


def test_worker_processes_that_never_start_are_one_sentence(tmp_path: Path):
    with (
        killer(100, worker_pids()) as dead,
        embedded(1) as workers,
        pytest.raises(WorkersUnavailable, match="3 times a worker process did not start"),
    ):
        list(workers.run(trace, [Job("a", str(tmp_path))], prefix="start", expected=1))
    assert len(dead) == 3


def test_a_worker_whose_new_process_is_killed_too_is_replaced(tmp_path: Path):
    others = worker_pids()
    with embedded(1) as workers:
        client = workers.client(1)
        jobs = [Job("first", str(tmp_path)), Job("second", str(tmp_path)), Job("third", str(tmp_path))]
        run = workers.run(trace, jobs, prefix="again", expected=3, alone=True)
        assert next(run).result == "first"
        with killer(2, others) as dead:
            until(lambda: len(dead) == 2)
        assert [completed.result for completed in run] == ["second", "third"]
        assert len(client.nthreads()) == 1


def test_a_run_that_waits_says_for_what(client: Any, tmp_path: Path, caplog: Any):
    caplog.set_level(logging.INFO, "rid.resources")

    def go_when_it_is_said() -> None:
        until(lambda: "1 run on 2 workers, 0 wait for a worker" in caplog.text)
        (tmp_path / "go").touch()

    with held_task(client, tmp_path) as (run, _):
        thread = threading.Thread(target=go_when_it_is_said, daemon=True)
        thread.start()
        assert [done.result for done in run] == ["held"]
        thread.join(30)
    said = [record.levelno for record in caplog.records if record.name == "rid.resources.bounded_run"]
    assert said and set(said) == {logging.INFO}


def test_a_task_that_takes_too_long_ends_the_run(client: Any, tmp_path: Path):
    patience = Patience(look=0.2, busy=8)
    with held_task(client, tmp_path, patience) as (run, _), pytest.raises(WorkersUnavailable) as ended:
        next(run)
    (tmp_path / "go").touch()
    assert re.match(r"no task finished for \d+ s \(1 run on 2 workers", str(ended.value))


def test_a_scheduler_without_workers_ends_the_run(tmp_path: Path, caplog: Any):
    from distributed import Client, LocalCluster

    patience = Patience(look=0.2, report=0.5, idle=2)
    with (
        LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(
            WorkersUnavailable, match=r"no worker took up a task for \d+ s .* 1 wait for a worker.: start workers"
        ),
    ):
        list(run_bounded(client, trace, [Job("a", str(tmp_path))], prefix="none", window=2, patience=patience))
    assert any(
        record.levelno == logging.WARNING and "0 run on 0 workers, 1 wait for a worker" in record.getMessage()
        for record in caplog.records
    )

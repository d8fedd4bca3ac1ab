import socket
from collections import Counter
from pathlib import Path

import psutil
import pytest
from small_catalogs import request_for, tree, write_photos
from worker_functions import Job, Poisoned, fail, fail_twice, kill_if_poison, trace

from rid.assets.protection.run import run_drop
from rid.resources.bounded_run import is_transient, run_bounded, task_key
from rid.resources.dask_cluster import DaskCluster
from rid.resources.dask_workers import InsecureScheduler, Workers, WorkerSettings, check_scheduler
from rid.resources.scheduler_state import WorkersUnavailable


@pytest.fixture(scope="module")
def workers():
    with Workers(WorkerSettings(n_workers=2, use_gpus=False)) as started:
        started.client(2)
        yield started


def jobs(folder: Path, *names: str) -> list[Job]:
    return [Job(name, str(folder)) for name in names]


def run_all(workers: Workers, function, tasks):
    return list(workers.run(function, tasks, prefix="test", expected=len(tasks)))


@pytest.mark.parametrize("address", ["tls://far:8786", "tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786"])
def test_safe_schedulers(address: str):
    assert check_scheduler(address) == address


@pytest.mark.parametrize(
    "address", ["tcp://far:8786", "far:8786", "tcp://10.0.0.1:8786", "ws://far:80", "tcp://0.0.0.0:1"]
)
def test_a_scheduler_elsewhere_without_tls_is_refused(address: str):
    with pytest.raises(InsecureScheduler, match="without TLS"):
        WorkerSettings(scheduler=address)
    assert WorkerSettings(scheduler=address, allow_insecure=True).scheduler == address


def test_the_resource_gives_the_same_settings():
    cluster = DaskCluster(n_workers=0, scheduler="")
    assert cluster.settings() == WorkerSettings(n_workers=0)
    with pytest.raises(InsecureScheduler):
        DaskCluster(scheduler="tcp://far:8786").settings()
    with cluster.connect() as workers:
        assert not workers.started


def test_nothing_is_started_without_tasks():
    with Workers(WorkerSettings(n_workers=1)) as workers:
        assert run_all(workers, trace, []) == []
        assert not workers.started


def test_keys_are_digests_of_the_content():
    one, two = Job("portrait-of-ann", "f"), Job("portrait-of-bob", "f")
    assert task_key("p", one) == task_key("p", Job("portrait-of-ann", "f")) != task_key("p", two)
    assert "ann" not in task_key("p", one)


def test_transient_faults():
    assert is_transient(ConnectionResetError()) and is_transient(TimeoutError()) and is_transient(OSError(5, "io"))
    for error in (FileNotFoundError(), PermissionError(), OSError(28, "disk full"), ValueError(), MemoryError()):
        assert not is_transient(error)


def test_embedded_workers_listen_on_the_loopback_interface_behind_tls(workers: Workers):
    client = workers.client()
    addresses = [client.scheduler.address, *client.scheduler_info(n_workers=-1)["workers"]]
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
    me = psutil.Process()
    listening = [
        connection.laddr
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and {address.ip for address in listening} == {"127.0.0.1"}
    assert 8787 not in {address.port for address in listening}


def test_every_task_runs_once(workers: Workers, tmp_path: Path):
    tasks = jobs(tmp_path, *(f"t{i}" for i in range(30)))
    done = run_all(workers, trace, tasks)
    assert {completed.task for completed in done} == set(tasks)
    assert all(completed.result == completed.task.name for completed in done)
    assert {len(file.read_text()) for file in tmp_path.iterdir()} == {1}


def test_tasks_are_drawn_no_faster_than_the_window(workers: Workers, tmp_path: Path):
    drawn = 0

    def tasks():
        nonlocal drawn
        for i in range(40):
            drawn += 1
            yield Job(f"w{i}", str(tmp_path))

    finished = 0
    for _ in run_bounded(workers.client(), trace, tasks(), prefix="window", window=3):
        finished += 1
        assert drawn - finished <= 3
    assert finished == 40


def test_a_transient_fault_is_repeated_and_another_is_not(workers: Workers, tmp_path: Path):
    (done,) = run_all(workers, fail_twice, jobs(tmp_path, "flaky"))
    assert done.result == "flaky" and (tmp_path / "flaky").read_text() == "xxx"
    with pytest.raises(ValueError, match="bad input"):
        run_all(workers, fail, jobs(tmp_path, "broken"))
    assert (tmp_path / "broken").read_text() == "x"


def test_the_same_in_this_process(tmp_path: Path):
    with Workers(WorkerSettings(n_workers=0)) as here:
        (done,) = run_all(here, fail_twice, jobs(tmp_path, "flaky"))
        assert done.result == "flaky"
        with pytest.raises(ValueError, match="bad input"):
            run_all(here, fail, jobs(tmp_path, "broken"))


def test_a_task_that_kills_its_worker_is_reported_and_the_others_finish(tmp_path: Path):
    with Workers(WorkerSettings(n_workers=2, use_gpus=False)) as workers:
        tasks = jobs(tmp_path, "a", "b", "poison", "c", "d", "e")
        done = run_all(workers, kill_if_poison, tasks)
    assert {completed.task for completed in done} == set(tasks)
    killed = {completed.task.name for completed in done if completed.killed}
    assert "poison" in killed
    assert Counter(c.result is None for c in done)[True] == len(killed) <= 2


def test_a_running_scheduler_is_used(tmp_path: Path):
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Workers(WorkerSettings(scheduler=cluster.scheduler_address)) as connected,
    ):
        (done,) = run_all(connected, trace, jobs(tmp_path, "there"))
    assert done.result == "there"


def test_a_dead_scheduler_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rid.resources.dask_workers.CONNECT_SECONDS", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(WorkersUnavailable, match="no Dask scheduler"),
        Workers(WorkerSettings(scheduler=address)) as workers,
    ):
        workers.client()


@pytest.mark.slow
def test_a_photo_that_kills_workers_is_quarantined_alone(tmp_path: Path):
    class PoisonedWorkers(Workers):
        def run(self, function, tasks, *, prefix, expected, **options):
            changed = Poisoned(function, "p002.jpg")
            yield from super().run(changed, tasks, prefix=prefix, expected=expected, **options)

    write_photos(tmp_path / "photos", 8)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    with PoisonedWorkers(WorkerSettings(n_workers=2, use_gpus=False)) as workers:
        summary = run_drop(request, workers)
    assert (summary.protected, summary.quarantined) == (7, {"worker_killed": 1})
    assert "p002.jpg" not in tree(tmp_path / "out")

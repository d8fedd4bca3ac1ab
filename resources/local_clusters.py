"""The cores and GPUs of this machine, and clusters of worker processes on them.

Both kinds of clusters listen on the loopback interface alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
from typing import Any

START_TRIES = 3
START_SECONDS = 300  # for a worker process; one starts in seconds unless the machine is busy

log = logging.getLogger(__name__)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine, found without torch; empty if there are none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []


def embedded_cluster(n_workers: int) -> Any:
    """Worker processes of one thread each that listen on the loopback interface alone, behind a temporary TLS key.

    A process that is killed while it starts fails the whole start, which is then tried again.

    Raises:
        RuntimeError: if worker processes die or are not ready within `START_SECONDS`, `START_TRIES` times.
    """
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.admin.log-format": "%(message)s",
        "distributed.worker.memory.terminate": 0.95,
        "distributed.nanny.pre-spawn-environ.OPENCV_FOR_THREADS_NUM": 1,
    }
    for tries_left in reversed(range(START_TRIES)):
        try:
            with dask.config.set(settings):
                return LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    security=True,
                    preload=[__name__],  # see `dask_setup`
                    silence_logs=logging.CRITICAL,
                    death_timeout=START_SECONDS,
                )
        except (RuntimeError, TimeoutError) as error:
            if not tries_left:
                raise RuntimeError(f"{START_TRIES} times a worker process did not start: {error}") from error
            log.warning("a worker process did not start (%s): all are started again", error)
    raise AssertionError("the last try returns or raises")


def dask_setup(_: object) -> None:
    """Leaves Ctrl-C to the process that started this worker: a terminal sends it to both.

    Dask calls this in every embedded worker process before its first task.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def revive_workers(cluster: Any, n_workers: int) -> None:
    """Starts embedded workers in place of those that are gone for good; those that live or are starting stay."""
    from distributed.core import Status

    for name, nanny in list(cluster.workers.items()):
        if nanny.status in (Status.closed, Status.failed):
            cluster.workers.pop(name, None)
    cluster.scale(n_workers)


def kill_workers(cluster: Any) -> None:
    """Ends embedded worker processes without waiting for their tasks, and keeps their nannies from restarting them."""
    for nanny in list(cluster.workers.values()):
        nanny.close_gracefully()
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def several_gpus() -> bool:
    """Returns whether `gpu_cluster` would start more than one worker."""
    return importlib.util.find_spec("dask_cuda") is not None and len(visible_gpus()) > 1


def gpu_cluster() -> Any:
    """One worker a GPU, labelled GPU; None without GPUs or without dask_cuda."""
    if importlib.util.find_spec("dask_cuda") is None or not visible_gpus():
        return None
    from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found,unused-ignore]

    cluster = LocalCUDACluster(
        host="127.0.0.1", dashboard_address="127.0.0.1:0", resources={"GPU": 1}, silence_logs=logging.CRITICAL
    )
    cluster.cuda = True
    return cluster

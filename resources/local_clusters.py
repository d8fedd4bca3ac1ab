"""What there is to work on: the cores and GPUs of this machine, and clusters of worker processes on them.

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
    """Worker processes of one thread each that listen on the loopback interface alone, behind a temporary TLS key."""
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.admin.log-format": "%(message)s",
        "distributed.worker.memory.terminate": 0.95,
        "distributed.nanny.pre-spawn-environ.OPENCV_FOR_THREADS_NUM": 1,
    }
    with dask.config.set(settings):
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=True,
            preload=["rid.resources.worker_process"],
            silence_logs=logging.CRITICAL,
        )


def kill_workers(cluster: Any) -> None:
    """Ends embedded worker processes without waiting for their tasks, and keeps their nannies from restarting them."""
    for nanny in list(cluster.workers.values()):
        nanny.close_gracefully()
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


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


def has_gpu_workers(client: Any) -> bool:
    """Whether a worker of the cluster offers the resource GPU."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get("GPU", 0) >= 1 for worker in workers)

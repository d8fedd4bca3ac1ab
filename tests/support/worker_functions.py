"""Functions that tests run on Dask workers; workers import this module by name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rid.assets.catalog.index_task import IndexTask, index_photos
from rid.models.guarded_protector import GuardedProtector

REAL_PROTECT = GuardedProtector.protect


@dataclass(frozen=True)
class Job:
    """A task: what to do, and a folder to leave traces in."""

    name: str
    folder: str


def trace(job: Job) -> str:
    """Counts its own runs in a file and returns its name."""
    with (Path(job.folder) / job.name).open("a") as file:
        file.write("x")
    return job.name


def fail_twice(job: Job) -> str:
    """Fails with a transient fault on its first two runs."""
    trace(job)
    if len((Path(job.folder) / job.name).read_text()) <= 2:
        raise ConnectionResetError("the connection was lost")
    return job.name


def fail(job: Job) -> str:
    """Fails with a fault that no repeat cures."""
    trace(job)
    raise ValueError("bad input")


def kill_if_poison(job: Job) -> str:
    """Kills its own worker if the job is called poison."""
    if job.name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return trace(job)


@dataclass(frozen=True)
class Poisoned:
    """Runs a function on a worker that dies itself, not its child, when it protects the photo of one name."""

    function: Any
    name: str

    def __call__(self, task: Any) -> Any:
        name = self.name

        def protect(self: GuardedProtector, data: bytes, photo: str = "", **options: Any) -> Any:
            if photo == name:
                os.kill(os.getpid(), signal.SIGKILL)
            return REAL_PROTECT(self, data, photo, **options)

        GuardedProtector.protect = protect  # type: ignore[method-assign]
        return self.function(task)


def kill_on_read(task: IndexTask) -> Any:
    """Indexes photos on a worker that dies when one of them is called deadly.jpg."""
    if any(photo.path == "deadly.jpg" for photo in task.photos):
        os.kill(os.getpid(), signal.SIGKILL)
    return index_photos(task)


def wait_for_go(job: Job) -> str:
    """Leaves its trace; a job called held then runs until its folder has a file called go."""
    trace(job)
    while job.name == "held" and not (Path(job.folder) / "go").exists():
        time.sleep(0.02)
    return job.name

"""Keeps runs apart that write the same drop into the same local target."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from rid.resources.storage import Storage

log = logging.getLogger(__name__)


@contextlib.contextmanager
def run_lock(folder: Storage, drop: str) -> Iterator[None]:
    """Waits until no other run writes the drop, and keeps others waiting.

    Two plans at once would write photos of the same names. The kernel drops the lock when a process dies, so that none
    is ever left behind. There is no lock on S3, nor on a file system without locks.

    Args:
        folder: one of the drop's own.
        drop: its name, for the message.
    """
    if folder.is_s3:
        yield
        return
    path = Path(folder.url)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "running.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another run writes drop %s into this target: waiting for its end", drop)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            log.info("there are no locks on the file system of %s", folder.url)
        yield

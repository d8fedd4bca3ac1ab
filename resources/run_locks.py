"""Keeps runs apart that write the same drop into the same local target."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rid.resources.storage import Storage

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
REPORT_SECONDS = 60.0  # between two words on a run that is waited for
LONGEST_SECONDS = 24 * 3600.0


class DropLocked(RuntimeError):
    """Another run has been writing the drop for longer than anybody waits."""


@contextlib.contextmanager
def run_lock(folder: Storage, drop: str, longest: float = LONGEST_SECONDS) -> Iterator[None]:
    """Waits until no other run writes the drop, and keeps others waiting.

    Two plans at once would write photos of the same names. The kernel drops the lock when a process dies, so that none
    is ever left behind. There is no lock on S3, nor on a file system without locks.

    Args:
        folder: one of the drop's own.
        drop: its name, for messages.
        longest: seconds after which a run that still writes is not waited for any more.

    Raises:
        DropLocked: after that time; a run that is suspended would be waited for without end.
    """
    if folder.is_s3:
        yield
        return
    path = Path(folder.url)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "running.lock").open("a") as lock:
        try:
            _take(lock, drop, longest)
        except OSError:
            log.info("there are no locks on the file system of %s", folder.url)
        yield


def _take(lock: IO[str], drop: str, longest: float) -> None:
    began, reports = time.monotonic(), 0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited >= longest:
                raise DropLocked(
                    f"another run has been writing drop {drop!r} into this target for {waited:.0f} s and still does: "
                    "end it if it hangs, then run again"
                ) from None
            if waited >= reports * REPORT_SECONDS:
                reports += 1
                since = f", for {waited:.0f} s by now" if reports > 1 else ""
                log.warning("another run writes drop %s into this target: waiting for its end%s", drop, since)
            time.sleep(POLL_SECONDS)
        else:
            return

"""Local files that appear whole: written under another name, then renamed; and what a killed writer leaves of them.

A writer holds a lock on its unfinished file until it is renamed. The kernel drops the lock when the process dies, so
whoever gets the lock knows that nobody will finish the file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import BinaryIO

WRITING = ".rid-writing"  # suffix of a local file that is not whole yet


class UnfinishedFile:
    """A temporary file beside its target, locked while it is open; removed if it was not renamed."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> tuple[Path, BinaryIO]:
        while True:
            self._temporary = self._target.with_name(f".{secrets.token_hex(6)}{WRITING}")
            self._file = self._temporary.open("wb")
            self._lock = os.dup(self._file.fileno())  # it outlives the file's own close, until the file has its name
            _lock(self._lock)
            if os.fstat(self._lock).st_nlink:
                return self._temporary, self._file
            self._close()  # it was swept away between its creation and its lock

    def __exit__(self, *_: object) -> None:
        self._temporary.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        self._file.close()
        os.close(self._lock)


def remove_if_abandoned(file: Path) -> bool:
    """Deletes an unfinished file whose writer is dead; returns whether it did.

    A file on a file system without locks stays.
    """
    try:
        with file.open("rb") as opened:
            if not _lock(opened.fileno()):
                return False
            file.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    return True


def _lock(descriptor: int) -> bool:
    """Tries to lock; False if another process has the lock or there are no locks here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

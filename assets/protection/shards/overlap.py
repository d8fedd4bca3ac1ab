"""Lets reading, protecting and writing overlap inside one task, with a bounded number of photos in flight."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rid.resources.storage import Storage

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_AHEAD = 2  # photos read while one is being protected
WRITE_BEHIND = 4  # photos being written while one is being protected


class WriteBehind:
    """Writes files in a thread of its own, a few at a time; a context manager."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._pool = ThreadPoolExecutor(1)
        self._running: deque[Future[None]] = deque()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, path: str, data: bytes) -> None:
        """Starts writing a file; waits if too many are being written."""
        self._running.append(self._pool.submit(self._storage.write_bytes, path, data))
        if len(self._running) > WRITE_BEHIND:
            self._running.popleft().result()

    def finish(self) -> None:
        """Waits until every file is written.

        Raises:
            OSError: if one could not be.
        """
        while self._running:
            self._running.popleft().result()


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields items that a thread draws a few of in advance; its error is raised here."""
    ready: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(READ_AHEAD)
    stopped = threading.Event()

    def offer(item: tuple[Item] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def draw() -> None:
        try:
            for item in items:
                offer((item,))
                if stopped.is_set():
                    return
            offer(None)
        except BaseException as error:  # handed over to the thread that waits for it
            offer(error)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stopped.set()
        thread.join()


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Applies a function in `threads` threads and yields the results in the items' order; one thread adds none."""
    if threads == 1:
        yield from map(function, items)
        return
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()

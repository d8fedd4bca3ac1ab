"""Makes the next batches in a thread while a step computes; a few wait, each is made once, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")

AHEAD = 3  # batches that may wait
DEADLINE = 600.0  # seconds a batch may take before the training gives up


class BatchLate(TimeoutError):
    """A batch was not made in time."""


class Prefetch(Generic[ItemT]):
    """Calls `make(step)` for the steps of a range in a thread of its own. Use as a context manager.

    Attributes:
        made: batches made so far; at most `ahead` more than were taken, and the one under way.
    """

    def __init__(
        self, make: Callable[[int], ItemT], steps: range, *, ahead: int = AHEAD, deadline: float = DEADLINE
    ) -> None:
        self._make, self._steps, self._ahead, self._deadline = make, steps, ahead, deadline
        self._waiting: deque[ItemT] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        self._taken = steps.start
        self._thread = threading.Thread(target=self._produce, name="batches", daemon=True)
        self.made = 0

    def __enter__(self) -> Prefetch[ItemT]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the thread; one that reads from a storage that does not answer is left to itself."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def take(self) -> ItemT:
        """Returns the next step's batch.

        Raises:
            BatchLate: if it is not there after the deadline.
            IndexError: if all steps were taken.
            Exception: what `make` raised.
        """
        if self._taken == self._steps.stop:
            raise IndexError(f"all {len(self._steps)} batches were taken")
        with self._changed:
            ready = self._changed.wait_for(lambda: self._waiting or self._error, timeout=self._deadline)
            if not ready:
                raise BatchLate(
                    f"the batch of step {self._taken} was not there after {self._deadline:.0f} s: check that the disk "
                    "that holds the photos answers, then run again to go on from the last checkpoint"
                )
            if not self._waiting:
                assert self._error is not None
                raise self._error
            self._taken += 1
            self._changed.notify_all()
            return self._waiting.popleft()

    def _produce(self) -> None:
        try:
            for step in self._steps:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or len(self._waiting) < self._ahead)
                    if self._stopped:
                        return
                made = self._make(step)
                with self._changed:
                    if self._stopped:
                        return
                    self.made += 1
                    self._waiting.append(made)
                    self._changed.notify_all()
        except BaseException as error:  # it is the trainer's to raise, in its own thread
            with self._changed:
                self._error = error
                self._changed.notify_all()

"""Keeps a bounded window of tasks on a Dask cluster and yields each as it completes; no wait is without a deadline.

Dask runs a task again whose worker died with its result. What it loses nevertheless is submitted again here, under a
new key: a result that no worker hands out, and a task that neither runs nor waits on the scheduler.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rid.resources.scheduler_state import LOST, TaskStates, WorkersUnavailable, ask_scheduler, task_states

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

RETRIES = 4  # repeats of a task that failed for a transient reason, or that was lost
FIRST_DELAY = 0.5  # seconds before the first repeat; doubled each time, with jitter
SETTLED = ("finished", "error", "cancelled")
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
PERMANENT_ERRNO = {27, 28, 30, 122}  # file too large, no space left, read-only file system, quota exceeded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completed(Generic[TaskT, ResultT]):
    """One finished task: its result, or `killed` if its worker died with it (`result` is None then)."""

    task: TaskT
    result: ResultT | None
    killed: bool = False


@dataclass(frozen=True)
class Patience:
    """Seconds that a run waits.

    Attributes:
        look: without a finished task, before the scheduler is asked what became of the tasks.
        fetch: for a result that a worker holds; then its task runs again under a new key.
        report: between two lines of the log that say what the run waits for.
        idle: while no worker works on anything; then the run ends.
        busy: without a finished task although workers work; then the run ends.
    """

    look: float = 10.0
    fetch: float = 60.0
    report: float = 60.0
    idle: float = 900.0
    busy: float = 86400.0


PATIENCE = Patience()


def task_key(prefix: str, task: object, attempt: int = 0) -> str:
    """A Dask key derived from the task's content; no file name appears in it."""
    return f"{prefix}-{hashlib.sha256(repr(task).encode()).hexdigest()[:40]}-{attempt}"


def is_transient(error: BaseException) -> bool:
    """True for faults that a repeat may cure: connections, timeouts, throttling; not for a full disk or bad input."""
    if getattr(error, "transient", None) is not None:
        return bool(error.transient)  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        return not isinstance(error, PERMANENT) and error.errno not in PERMANENT_ERRNO
    return type(error).__name__ in {
        "CommClosedError",
        "FutureCancelledError",
        "CancelledError",
        "EndpointConnectionError",
    }


def repeat_delay(attempt: int) -> float:
    """Seconds before a task that failed for the `attempt`-th time (from 0) is repeated."""
    return FIRST_DELAY * 2.0**attempt * random.uniform(0.5, 1.5)


def run_bounded(
    client: Any,
    function: Callable[[TaskT], ResultT],
    tasks: Iterable[TaskT],
    *,
    prefix: str,
    window: int,
    resources: dict[str, int] | None = None,
    retries: int = RETRIES,
    patience: Patience = PATIENCE,
    revive: Callable[[], None] = lambda: None,
) -> Iterator[Completed[TaskT, ResultT]]:
    """Keeps at most `window` tasks on the cluster and yields them as they complete.

    Args:
        client: a connected client.
        function: importable by workers; takes one task.
        tasks: see `rid.resources.dask_workers.Workers.run`.
        prefix: start of the task keys.
        window: tasks on the cluster at once.
        resources: what a worker must offer, such as one GPU.
        retries: repeats of a task that failed for a transient reason or was lost.
        patience: deadlines.
        revive: called when nothing finishes; replaces workers that are gone for good.

    Raises:
        WorkersUnavailable: if the scheduler is lost, or one of the deadlines is over.
        Exception: the task's own error, when it is not transient or was repeated in vain.
    """
    from distributed.comm import CommClosedError

    run: _Window[TaskT, ResultT] = _Window(client, function, prefix, resources, retries, patience)
    iterator = iter(tasks)
    try:
        run.fill(iterator, window)
        while run.unfinished:
            for future in run.settled(revive):
                completed = run.settle(future)
                if completed is not None:
                    yield completed
            run.fill(iterator, window)
    except (CommClosedError, CancelledError) as error:
        raise WorkersUnavailable(LOST) from error
    finally:
        run.cancel()


@dataclass
class _Try(Generic[TaskT]):
    """One task on its way: how often it was submitted, failed and got lost."""

    task: TaskT
    submitted: int = 0
    failed: int = 0
    lost: int = 0


class _Window(Generic[TaskT, ResultT]):
    """The tasks that are on the cluster or about to be repeated."""

    def __init__(
        self,
        client: Any,
        function: Callable[[TaskT], ResultT],
        prefix: str,
        resources: dict[str, int] | None,
        retries: int,
        patience: Patience,
    ) -> None:
        self._client, self._function, self._prefix, self._resources = client, function, prefix, resources
        self._retries, self._patience = retries, patience
        self._running: dict[Any, _Try[TaskT]] = {}
        self._delayed: list[tuple[float, int, _Try[TaskT]]] = []  # due time, tie-break
        self._ties = itertools.count()
        self._missing: set[str] = set()  # keys that were neither running nor waiting at the last look
        now = time.monotonic()
        self._finished_at = self._worked_at = self._looked_at = self._reported_at = now

    @property
    def unfinished(self) -> int:
        """Tasks that were drawn and have not completed."""
        return len(self._running) + len(self._delayed)

    def fill(self, tasks: Iterator[TaskT], window: int) -> None:
        """Submits repeats that are due, and draws tasks up to the window."""
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            self._submit(heapq.heappop(self._delayed)[2])
        while self.unfinished < window:
            try:
                self._submit(_Try(next(tasks)))
            except StopIteration:
                return

    def settled(self, revive: Callable[[], None]) -> list[Any]:
        """Waits for a finished task, a repeat that is due or the time for a look at what is unheard of."""
        from distributed import wait

        due = self._delayed[0][0] if self._delayed else float("inf")
        seconds = max(0.01, min(due - time.monotonic(), self._patience.look))
        if self._running:
            with contextlib.suppress(TimeoutError, CancelledError), self._client.as_current():
                wait(list(self._running), timeout=seconds, return_when="FIRST_COMPLETED")
        else:
            time.sleep(seconds)
        done = [future for future in self._running if future.status in SETTLED]
        now = time.monotonic()
        if done:
            self._finished_at = self._worked_at = self._looked_at = self._reported_at = now
        elif self._running and now - self._looked_at >= self._patience.look:
            self._looked_at = now
            self._look()
            revive()
        return done

    def settle(self, future: Any) -> Completed[TaskT, ResultT] | None:
        """The completed task of a future; None if it runs again.

        Raises:
            Exception: the task's own error, when it is not transient or was repeated in vain.
            WorkersUnavailable: if the scheduler or the task was lost for good.
        """
        from distributed.scheduler import KilledWorker

        if future not in self._running:  # submitted again since it was found
            return None
        entry = self._running.pop(future)
        if future.status == "cancelled":
            ask_scheduler(self._client, "identity", n_workers=0)  # a lost scheduler cancels tasks too
            self._again(future, entry, "the scheduler forgot it")
            return None
        try:
            error = future.exception(timeout=self._patience.fetch) if future.status == "error" else None
            if error is None:
                return Completed(entry.task, future.result(timeout=self._patience.fetch))
        except (OSError, CancelledError) as raised:  # a timeout, a closed connection, a task that the scheduler forgot
            if future.status != "error":
                self._not_fetched(future, entry)
                return None
            error = raised
        except Exception as raised:  # Dask computed a lost result again, and this failed
            error = raised
        if isinstance(error, KilledWorker):
            return Completed(entry.task, None, killed=True)
        if entry.failed >= self._retries or not is_transient(error):
            raise error
        heapq.heappush(self._delayed, (time.monotonic() + repeat_delay(entry.failed), next(self._ties), entry))
        entry.failed += 1
        return None

    def cancel(self) -> None:
        """Takes what is left from the cluster."""
        if self._running:
            self._client.cancel(list(self._running), force=True)

    def _submit(self, entry: _Try[TaskT], avoid: Iterable[str] = ()) -> None:
        key = task_key(self._prefix, entry.task, entry.submitted)
        entry.submitted += 1
        others = set(ask_scheduler(self._client, "ncores")) - set(avoid) if avoid else set()
        future = self._client.submit(
            self._function,
            entry.task,
            key=key,
            retries=0,
            resources=self._resources,
            workers=sorted(others) or None,
            allow_other_workers=bool(others),
        )
        self._running[future] = entry

    def _not_fetched(self, future: Any, entry: _Try[TaskT]) -> None:
        """Leaves a task that Dask computes again to Dask, and submits one whose result stays away."""
        if future.status in ("pending", "lost"):
            self._running[future] = entry
            return
        holders = ask_scheduler(self._client, "who_has", keys=[future.key]).get(future.key, ())
        self._again(future, entry, f"its result did not come within {self._patience.fetch:g} s", holders)

    def _again(self, future: Any, entry: _Try[TaskT], why: str, avoid: Iterable[str] = ()) -> None:
        if entry.lost >= self._retries:
            raise WorkersUnavailable(
                f"a task was lost {entry.lost + 1} times, and at last {why}: look at the logs of the workers and at "
                "the network between them, then run again to continue"
            )
        entry.lost += 1
        log.warning("a task was lost (%s) and is submitted again", why)
        self._client.cancel([future], force=True)
        self._submit(entry, avoid)

    def _look(self) -> None:
        """Finds tasks that the scheduler lost, says what is waited for, and ends a run that has waited too long."""
        states = task_states(self._client, [future.key for future in self._running])
        unheard = {future.key: future for future in self._running if future.status not in SETTLED}
        missing = set(unheard) - states.running - states.waiting
        for key in missing & self._missing:  # twice: a message may be under way
            future = unheard[key]
            self._again(future, self._running.pop(future), "no worker has it, and none is to get it")
        self._missing = missing - self._missing
        now = time.monotonic()
        if states.running or states.others:
            self._worked_at = now
        if now - self._reported_at >= self._patience.report:
            self._reported_at = now
            log.log(
                logging.INFO if states.running and now - self._finished_at < self._patience.idle else logging.WARNING,
                "no task finished for %.0f s: %s",
                now - self._finished_at,
                _waiting_for(states),
            )
        if now - self._worked_at > self._patience.idle:
            raise WorkersUnavailable(
                f"no worker took up a task for {now - self._worked_at:.0f} s ({_waiting_for(states)}): start workers"
                f"{' that offer ' + ', '.join(self._resources) if self._resources else ''}, then run again to continue"
            )
        if now - self._finished_at > self._patience.busy:
            raise WorkersUnavailable(
                f"no task finished for {now - self._finished_at:.0f} s ({_waiting_for(states)}): look at what the "
                "workers do, end them, then run again to continue"
            )


def _waiting_for(states: TaskStates) -> str:
    text = f"{len(states.running)} run on {states.workers} workers, {len(states.waiting)} wait for a worker"
    return f"{text}, {states.others} of other runs are ahead" if states.others else text

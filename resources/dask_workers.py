"""Runs plain functions on Dask workers: an embedded loopback cluster, the GPUs of this machine, or a given scheduler.

Nothing is started before the first task. A bounded window of tasks is in flight, task keys are digests of the task,
and a task whose worker died is reported as killed instead of ending the run, so that the caller can isolate its cause.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import ipaddress
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from rid.resources.local_clusters import cores, embedded_cluster, gpu_cluster, has_gpu_workers, kill_workers
from rid.resources.worker_versions import check_versions

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

RETRIES = 4  # repeats of a task that failed for a transient reason
CONNECT_SECONDS = 15  # patience with a scheduler
FIRST_DELAY = 0.5  # seconds before the first repeat; doubled each time, with jitter
LOST = "the Dask scheduler was lost while tasks were running; run again to continue"
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
PERMANENT_ERRNO = {27, 28, 30, 122}  # file too large, no space left, read-only file system, quota exceeded


class InsecureScheduler(ValueError):
    """A scheduler address that would run anybody's code: not TLS, and not on this machine."""


class WorkersUnavailable(ConnectionError):
    """The scheduler did not answer, or has no workers."""


@dataclass(frozen=True)
class WorkerSettings:
    """Where tasks run.

    Attributes:
        scheduler: address of a running Dask scheduler; None starts workers on this machine.
        n_workers: embedded worker processes; None is one a core; 0 runs tasks in this process, without isolation.
        allow_insecure: accepts a scheduler on another machine without TLS. Whoever reaches it can run code.
        use_gpus: with embedded workers, one worker a GPU if GPUs and dask_cuda are present.
    """

    scheduler: str | None = None
    n_workers: int | None = None
    allow_insecure: bool = False
    use_gpus: bool = True

    def __post_init__(self) -> None:
        if self.n_workers is not None and self.n_workers < 0:
            raise ValueError(f"{self.n_workers} workers are not possible: give 0 (this process) or more")
        if self.scheduler is not None:
            check_scheduler(self.scheduler, allow_insecure=self.allow_insecure)


@dataclass(frozen=True)
class Completed(Generic[TaskT, ResultT]):
    """One finished task: its result, or `killed` if its worker died with it (`result` is None then)."""

    task: TaskT
    result: ResultT | None
    killed: bool = False


def check_scheduler(address: str, *, allow_insecure: bool = False) -> str:
    """Returns `address` if it may be used.

    Raises:
        InsecureScheduler: for anything but `tls://` that is not on the loopback interface, unless allowed.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme == "tls" or allow_insecure or _is_loopback(parts.hostname):
        return address
    raise InsecureScheduler(
        f"scheduler {address!r} is on another machine without TLS, where anybody could run code: "
        "use a tls:// address, or allow it in so many words (allow_insecure)"
    )


def _is_loopback(host: str | None) -> bool:
    if host in (None, "localhost"):
        return host == "localhost"
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


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


class Workers:
    """Workers that start with the first task. Use as a context manager; leaving it stops what was started."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self._cluster: Any = None
        self._client: Any = None
        self._checked: frozenset[str] = frozenset()

    @property
    def started(self) -> bool:
        """Whether a cluster or a connection exists."""
        return self._client is not None

    @property
    def separate(self) -> bool:
        """Whether tasks run in processes of their own."""
        return self.settings.scheduler is not None or self.settings.n_workers != 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._cluster is not None:
            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it would report the dead after its own close
            kill_workers(self._cluster)  # a terminated process has seconds left, and busy workers would take longer
        for resource in (self._client, self._cluster):
            if resource is not None:
                with contextlib.suppress(TimeoutError):
                    resource.close(timeout=5 if kind is None else 2)
        self._client = self._cluster = None

    def run(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        *,
        prefix: str,
        expected: int,
        gpu: bool = False,
        alone: bool = False,
    ) -> Iterator[Completed[TaskT, ResultT]]:
        """Yields each task as it completes, in any order.

        Args:
            function: importable by workers; takes one task.
            tasks: small frozen dataclasses of strings and numbers; drawn lazily.
            prefix: start of the task keys.
            expected: about how many tasks there are, so that no idle worker is started.
            gpu: asks for a GPU worker if the cluster has any.
            alone: one task at a time, so that a worker's death can be blamed on nothing else.

        Raises:
            WorkersUnavailable: if no worker can be had.
            WrongWorkerVersion: if a worker of a given scheduler runs another version of this package.
            Exception: the task's own error, when it is not transient or was repeated in vain.
        """
        iterator = iter(tasks)
        first = next(iterator, None)
        if first is None:
            return
        everything = itertools.chain([first], iterator)
        if self.settings.scheduler is None and self.settings.n_workers == 0:
            yield from _run_here(function, everything)
            return
        client = self.client(expected)
        threads = sum(client.nthreads().values()) or 1
        labels = {"GPU": 1} if gpu and has_gpu_workers(client) else None
        window = 1 if alone else 2 * threads + 2
        yield from run_bounded(client, function, everything, prefix=prefix, window=window, resources=labels)

    def client(self, expected: int = 1) -> Any:
        """The connected client; starts or scales the embedded workers to what `expected` tasks can use."""
        if self._client is None:
            self._connect(expected)
        elif self._cluster is not None and self.settings.n_workers != 0 and hasattr(self._cluster, "scale"):
            wanted = min(self.settings.n_workers or cores(), max(1, expected))
            if wanted > len(self._cluster.workers) and not getattr(self._cluster, "cuda", False):
                self._cluster.scale(wanted)
        if self.settings.scheduler is not None:
            self._checked = check_versions(self._client, self._checked)
        return self._client

    def _connect(self, expected: int) -> None:
        from distributed import Client

        if self.settings.scheduler is not None:
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says is raised here as well
            try:
                self._client = Client(self.settings.scheduler, set_as_default=False, timeout=CONNECT_SECONDS)
                self._client.wait_for_workers(1, timeout=60)
            except TypeError as error:  # what Dask says where it has no certificate
                raise WorkersUnavailable(
                    f"the scheduler {self.settings.scheduler} speaks TLS, and no certificate is configured here: set "
                    "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ...__CLIENT__CERT and ...__CLIENT__KEY"
                ) from error
            except (OSError, TimeoutError) as error:
                raise WorkersUnavailable(
                    f"no Dask scheduler with workers answers at {self.settings.scheduler}: {type(error).__name__}"
                ) from error
            return
        wanted = min(self.settings.n_workers or cores(), max(1, expected))
        self._cluster = gpu_cluster() if self.settings.use_gpus else None
        if self._cluster is None:
            try:
                self._cluster = embedded_cluster(wanted)
            except RuntimeError as error:  # what Dask says of a worker process that does not start
                raise WorkersUnavailable(f"no worker process can be started on this machine: {error}") from error
        self._client = Client(self._cluster, set_as_default=False)
        self._client.wait_for_workers(1, timeout=60)


def _run_here(function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[Completed[TaskT, ResultT]]:
    for task in tasks:
        for attempt in itertools.count():
            try:
                result = function(task)
                break
            except Exception as error:
                if attempt >= RETRIES or not is_transient(error):
                    raise
                time.sleep(_delay(attempt))
        yield Completed(task, result)


def run_bounded(
    client: Any,
    function: Callable[[TaskT], ResultT],
    tasks: Iterable[TaskT],
    *,
    prefix: str,
    window: int,
    resources: dict[str, int] | None = None,
    retries: int = RETRIES,
) -> Iterator[Completed[TaskT, ResultT]]:
    """Keeps at most `window` tasks on the cluster and yields them as they complete; see `Workers.run`."""
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    iterator = iter(tasks)
    running: dict[Any, tuple[TaskT, int]] = {}
    delayed: list[tuple[float, int, TaskT, int]] = []  # due time, tie-break, task, attempt
    ties = itertools.count()

    def submit(task: TaskT, attempt: int) -> None:
        key = task_key(prefix, task, attempt)
        running[client.submit(function, task, key=key, retries=0, resources=resources)] = (task, attempt)

    def fill() -> None:
        while delayed and delayed[0][0] <= time.monotonic():
            _, _, task, attempt = heapq.heappop(delayed)
            submit(task, attempt)
        while len(running) + len(delayed) < window:
            try:
                submit(next(iterator), 0)
            except StopIteration:
                return

    try:
        fill()
        while running or delayed:
            for future in _finished(client, list(running), delayed):
                task, attempt = running.pop(future)
                error = None if future.status == "finished" else _error_of(future)
                if error is None:
                    yield Completed(task, future.result())
                elif isinstance(error, KilledWorker):
                    yield Completed(task, None, killed=True)
                elif attempt < retries and is_transient(error):
                    heapq.heappush(delayed, (time.monotonic() + _delay(attempt), next(ties), task, attempt + 1))
                else:
                    raise error
            fill()
    except (CommClosedError, CancelledError) as error:
        raise WorkersUnavailable(LOST) from error
    finally:
        if running:
            client.cancel(list(running), force=True)


def _finished(client: Any, futures: list[Any], delayed: list[tuple[float, int, Any, int]]) -> list[Any]:
    """Blocks until a task is finished or a repeat is due."""
    from distributed import wait

    patience = max(0.01, delayed[0][0] - time.monotonic()) if delayed else None
    if not futures:
        time.sleep(patience or 0)
        return []
    try:
        with client.as_current():
            return list(wait(futures, timeout=patience, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _error_of(future: Any) -> BaseException:
    """The task's error, or the cancellation that a lost scheduler leaves behind."""
    if future.status == "error":
        error: BaseException = future.exception()
        return error
    return WorkersUnavailable(LOST)


def _delay(attempt: int) -> float:
    return FIRST_DELAY * 2.0**attempt * random.uniform(0.5, 1.5)

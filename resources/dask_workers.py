"""Runs plain functions on Dask workers: an embedded loopback cluster, the GPUs of this machine, or a given scheduler.

Nothing is started before the first task. A bounded window of tasks is in flight, task keys are digests of the task,
and a task whose worker died is reported as killed instead of ending the run, so that the caller can isolate its cause.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rid.resources.bounded_run import RETRIES, Completed, Patience, is_transient, repeat_delay, run_bounded
from rid.resources.local_clusters import cores, embedded_cluster, gpu_cluster, kill_workers, revive_workers
from rid.resources.scheduler_state import WorkersUnavailable, ask_scheduler, has_gpu_workers
from rid.resources.worker_versions import check_versions

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

CONNECT_SECONDS = 15  # patience with a scheduler
FIRST_WORKER_SECONDS = 300  # for the first worker; one starts in seconds unless the machine is busy


class InsecureScheduler(ValueError):
    """A scheduler address that would run anybody's code: not TLS, and not on this machine."""


@dataclass(frozen=True)
class WorkerSettings:
    """The workers that run tasks.

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


class Workers:
    """Workers that start with the first task. Use as a context manager; leaving it stops what was started."""

    def __init__(self, settings: WorkerSettings, patience: Patience | None = None) -> None:
        self.settings = settings
        self.patience = patience or Patience()
        self._wanted = 0  # embedded workers that should be there
        self._cluster: Any = None
        self._client: Any = None
        self._checked: frozenset[str] = frozenset()

    @property
    def started(self) -> bool:
        """True if a cluster or a connection exists."""
        return self._client is not None

    @property
    def separate(self) -> bool:
        """True if tasks run in processes of their own."""
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

    def close(self) -> None:
        """Stops what was started, and what it holds in memory; the next task starts it again."""
        self.__exit__(None, None, None)

    def run(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        *,
        prefix: str,
        expected: int,
        gpu: bool = False,
        alone: bool = False,
        longest: float | None = None,
    ) -> Iterator[Completed[TaskT, ResultT]]:
        """Yields each task as it completes, in any order.

        Args:
            function: importable by workers; takes one task.
            tasks: small frozen dataclasses whose `repr` says all of them, since it names the task; drawn lazily.
            prefix: start of the task keys.
            expected: about how many tasks there are, so that no idle worker is started.
            gpu: asks for a GPU worker if the cluster has any.
            alone: one task at a time, so that a worker's death can be blamed on nothing else.
            longest: seconds that a task may take; None is `patience.busy`.

        Raises:
            WorkersUnavailable: if no worker can be had, the scheduler is lost, or nothing finishes for too long.
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
        threads = sum(ask_scheduler(client, "ncores").values()) or 1
        labels = {"GPU": 1} if gpu and has_gpu_workers(client) else None
        yield from run_bounded(
            client,
            function,
            everything,
            prefix=prefix,
            window=1 if alone else 2 * threads + 2,
            resources=labels,
            patience=self.patience if longest is None else replace(self.patience, busy=longest),
            revive=self._revive,
        )

    def client(self, expected: int = 1) -> Any:
        """The connected client; starts or scales the embedded workers to what `expected` tasks can use."""
        if self._client is None:
            self._connect(expected)
        elif self._cluster is not None and self.settings.n_workers != 0 and hasattr(self._cluster, "scale"):
            wanted = min(self.settings.n_workers or cores(), max(1, expected))
            if wanted > self._wanted and not getattr(self._cluster, "cuda", False):
                self._wanted = wanted
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
        self._cluster = gpu_cluster() if self.settings.use_gpus else None
        try:
            if self._cluster is None:
                self._wanted = min(self.settings.n_workers or cores(), max(1, expected))
                self._cluster = embedded_cluster(self._wanted)
            self._client = Client(self._cluster, set_as_default=False)
            self._client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
        except (RuntimeError, TimeoutError) as error:  # what Dask says of a worker process that does not start
            raise WorkersUnavailable(f"no worker process can be started on this machine: {error}") from error

    def _revive(self) -> None:
        """Replaces embedded workers whose processes could not be started again after their death."""
        if self._wanted:
            revive_workers(self._cluster, self._wanted)


def _run_here(function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[Completed[TaskT, ResultT]]:
    for task in tasks:
        for attempt in itertools.count():
            try:
                result = function(task)
                break
            except Exception as error:
                if attempt >= RETRIES or not is_transient(error):
                    raise
                time.sleep(repeat_delay(attempt))
        yield Completed(task, result)

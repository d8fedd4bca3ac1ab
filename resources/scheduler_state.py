"""Questions to a scheduler about its workers and tasks; each has a deadline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 60.0  # for one question; a busy machine answers in seconds
LOST = "the Dask scheduler was lost while tasks were running; run again to continue"
UNTOUCHED = ("waiting", "queued", "no-worker")  # states of a task that waits for a worker


class WorkersUnavailable(ConnectionError):
    """The scheduler did not answer, has no workers, or lets no task finish."""


@dataclass(frozen=True)
class TaskStates:
    """The state of some tasks at one moment.

    Attributes:
        workers: workers that are connected.
        running: keys of the tasks that a worker has.
        waiting: keys of the tasks that wait for a worker.
        others: tasks on the workers that were not asked for.
    """

    workers: int
    running: frozenset[str]
    waiting: frozenset[str]
    others: int


def ask_scheduler(client: Any, question: str, **details: Any) -> Any:
    """One answer of the scheduler.

    Args:
        client: a connected client.
        question: name of a handler of the scheduler, such as `processing`.
        details: its arguments.

    Raises:
        WorkersUnavailable: if there is no answer within `ANSWER_SECONDS`.
    """
    try:
        return client.sync(getattr(client.scheduler, question), callback_timeout=ANSWER_SECONDS, **details)
    except OSError as error:  # a closed connection or a timeout
        raise WorkersUnavailable(LOST) from error


def task_states(client: Any, keys: Iterable[str]) -> TaskStates:
    """Asks for the state of tasks; a key in neither set is finished or unknown.

    Raises:
        WorkersUnavailable: if the scheduler does not answer.
    """
    wanted = list(keys)
    states = ask_scheduler(client, "get_task_status", keys=wanted)
    by_worker = ask_scheduler(client, "processing")
    running = frozenset(key for found in by_worker.values() for key in found) & frozenset(wanted)
    return TaskStates(
        workers=len(by_worker),
        running=running | frozenset(key for key, state in states.items() if state == "processing"),
        waiting=frozenset(key for key, state in states.items() if state in UNTOUCHED),
        others=sum(len(found) for found in by_worker.values()) - len(running),
    )


def has_gpu_workers(client: Any) -> bool:
    """Returns whether a worker of the cluster offers the resource GPU."""
    workers = ask_scheduler(client, "identity", n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get("GPU", 0) >= 1 for worker in workers)

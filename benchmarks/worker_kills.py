"""Kills worker processes at random moments, beside processes that use up the CPU: `python -m benchmarks.worker_kills`.

Every run starts two workers and gives them small tasks; workers are killed while they start, work or hold results. Each
task has to complete once, with its result or as killed, and each run has to end.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from rid.resources.bounded_run import Patience
from rid.resources.dask_workers import Workers, WorkerSettings

PATIENCE = Patience(look=5, fetch=20, report=30, idle=300, busy=600)


@dataclass(frozen=True)
class Nap:
    """A task: its number, and how long it takes."""

    number: int
    seconds: float


def nap(task: Nap) -> int:
    """Sleeps and returns the number."""
    time.sleep(task.seconds)
    return task.number


class Losses(logging.Handler):
    """Counts what the run said of lost tasks and workers, by its first words."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Counts one line."""
        self.counts[record.getMessage().partition(":")[0][:90]] += 1


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that compute for ever while the block runs."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait(30)


@contextlib.contextmanager
def killer(moments: list[float]) -> Iterator[list[float]]:
    """Kills one worker process, of those that live or start, at each moment; yields the moments at which it did."""
    began, ended, killed = time.monotonic(), threading.Event(), []

    def run() -> None:
        for moment in sorted(moments):
            if ended.wait(max(0.0, began + moment - time.monotonic())):
                return
            found = [child for child in psutil.Process().children() if _is_worker(child)]
            if found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    random.choice(found).kill()
                    killed.append(moment)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join(30)


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any moment
        return "spawn_main" in " ".join(process.cmdline())
    return False


def one_run(tasks: int, kills: int, span: float) -> tuple[Counter[str], float]:
    """Runs tasks while workers are killed.

    Args:
        tasks: their number.
        kills: worker processes to kill.
        span: seconds from the start of the cluster within which they are killed.

    Returns:
        How many tasks ended how (`done`, `killed`, `twice`, `wrong`), and workers `shot`; the seconds it took.
    """
    jobs = [Nap(number, random.uniform(0.05, 0.4)) for number in range(tasks)]
    began, seen, counts = time.perf_counter(), set(), Counter()
    moments = [random.uniform(0.0, span) for _ in range(kills)]
    with killer(moments) as shot, Workers(WorkerSettings(n_workers=2, use_gpus=False), PATIENCE) as workers:
        for completed in workers.run(nap, jobs, prefix="nap", expected=tasks):
            number = completed.task.number
            counts["twice"] += number in seen
            counts["killed"] += completed.killed
            counts["done"] += completed.result == number
            counts["wrong"] += not completed.killed and completed.result != number
            seen.add(number)
    counts["shot"] = len(shot)
    counts["missing"] = tasks - len(seen)
    return counts, time.perf_counter() - began


def main() -> int:
    """Runs, prints what became of the tasks, and returns 1 if one is unaccounted for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_kills", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=40, help="of each run")
    parser.add_argument("--kills", type=int, default=3, help="of each run, at most")
    parser.add_argument("--span", type=float, default=15.0, help="seconds within which workers are killed")
    parser.add_argument("--hogs", type=int, default=2, help="processes that use up the CPU")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    losses, total, seconds, failed = Losses(), Counter(), [], 0
    logging.getLogger("rid").addHandler(losses)
    with hogs(given.hogs):
        for number in range(given.runs):
            try:
                counts, took = one_run(given.tasks, random.randint(0, given.kills), given.span)
            except Exception as error:  # every way a run can end is counted
                failed += 1
                print(f"run {number}: {type(error).__name__}: {error}", flush=True)
                continue
            total += counts
            seconds.append(took)
            print(f"run {number}: {took:.1f} s, {dict(counts)}", flush=True)
    print(f"{given.runs} runs, {failed} failed; {dict(total)}")
    if seconds:
        print(f"seconds: median {statistics.median(seconds):.1f}, longest {max(seconds):.1f}")
    for text, count in losses.counts.most_common():
        print(f"{count:4} times: {text}")
    return 1 if failed or total["missing"] or total["twice"] or total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

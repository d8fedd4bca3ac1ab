"""A training in several processes, one a GPU, that its task starts and that end with it.

    python -m rid.assets.teaching.training_processes FOLDER      # one of them, as torch's launcher calls it

Each process is one of `accelerate`'s and trains its share of every batch. The main one tells the steps in a file, which
the task reads; what ends a process is told in another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rid.assets.teaching.training_task import OnStep, TrainingTask, from_json, to_json, train_here

TASK, STEPS, ERROR = "task.json", "steps.jsonl", "error.json"
PARENT = "RID_TRAINING_TASK"  # the process id of the task
LOOK_SECONDS = 0.3
STOP_SECONDS = 20.0


def process_count(wanted: int, device: str) -> int:
    """Returns how many processes a training has on this machine.

    Args:
        wanted: 0 is one a GPU, or one.
        device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: if there are more than GPUs, where GPUs are used.
    """
    import torch

    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if wanted < 0:
        raise ValueError(f"{wanted} processes are not possible: give 0 for one a GPU, or 1 or more")
    if gpus and wanted > gpus:
        raise ValueError(f"{wanted} processes need as many GPUs and this machine has {gpus}: give 0 for one a GPU")
    return wanted or max(1, gpus)


def launch(task: TrainingTask, folder: Path, processes: int, on_step: OnStep | None) -> None:
    """Trains in several processes on this machine and returns when all are finished.

    Args:
        task: what to train.
        folder: has what the task fetched.
        processes: at least 2.
        on_step: called with the record of each step.

    Raises:
        ValueError: what a process raised.
        RuntimeError: what a process raised, or that one died.
    """
    (folder / TASK).write_text(json.dumps(to_json(task)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {PARENT: str(os.getpid())}
    if task.device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    with (
        (folder / "processes.log").open("w+b") as output,
        _stopped(
            subprocess.Popen(
                [*command, "-m", __name__, str(folder)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ) as launcher,
    ):
        steps = _Steps(folder / STEPS)
        while launcher.poll() is None:
            time.sleep(LOOK_SECONDS)
            steps.tell(on_step)
        steps.tell(on_step)
        if launcher.returncode:
            output.seek(0)
            _raise(folder / ERROR, launcher.returncode, output.read()[-2000:].decode(errors="replace"))


@contextmanager
def _stopped(launcher: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends a launcher and the processes that it started, however the block is left."""
    try:
        yield launcher
    finally:
        if launcher.poll() is None:
            launcher.terminate()  # it hands this on
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


class _Steps:
    """The steps that the main process told, each once."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def tell(self, on_step: OnStep | None) -> None:
        if on_step is None or not self._file.is_file():
            return
        with self._file.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + bool(whole)
        for line in whole.splitlines():
            on_step(json.loads(line))


def _raise(file: Path, code: int, output: str) -> None:
    if not file.is_file():
        raise RuntimeError(f"a process of the training ended with {code}; the last that they said: {output}")
    told = json.loads(file.read_bytes())
    raise (ValueError if told["mistake"] else RuntimeError)(told["sentence"])


def _work(folder: Path) -> None:
    """Trains as one process."""
    task = from_json(json.loads((folder / TASK).read_bytes()))
    parent = int(os.environ[PARENT])
    with (folder / STEPS).open("a", encoding="utf-8") as steps:

        def on_step(record: dict[str, Any]) -> None:
            os.kill(parent, 0)  # ProcessLookupError where the task was killed: so do its processes end
            steps.write(json.dumps(record) + "\n")
            steps.flush()

        try:
            train_here(task, folder, on_step)
        except Exception as error:
            told = {"mistake": isinstance(error, ValueError), "sentence": str(error) or type(error).__name__}
            with contextlib.suppress(FileExistsError), (folder / ERROR).open("x", encoding="utf-8") as file:
                json.dump(told, file)  # the first is the cause; others lose their neighbour
            raise


if __name__ == "__main__":
    _work(Path(sys.argv[1]))

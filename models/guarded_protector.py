"""A protector in a child process: a photo that hangs, kills or needs too much memory ends there, and ends alone.

The child lives as long as its photos are harmless: the cost of a photo is two trips through a pipe. One that
takes longer than the policy's deadline is killed with its child; one that kills its child is tried once more in a new
one, because the system may have killed it for another's hunger. The next photo gets a new child.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rid.models.photo_files.marks import AlreadyProtected, Mark
from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import ProtectionPolicy
from rid.models.protector import BudgetBroken, ProtectedPhoto, ZeroPerturbation
from rid.models.protector_process import LENGTHS, to_frame

START_SECONDS = 300.0  # for a child to load its defender
RECYCLED_AFTER = 5000  # photos; bounds what a library leaks
CHUNK = 2**20
TRIES = 2
FATAL: dict[str, type[Exception]] = {error.__name__: error for error in (ZeroPerturbation, BudgetBroken)}


class ProtectorUnavailable(RuntimeError):
    """The child process cannot be started; this says nothing about any photo, and may pass."""

    transient = True


class ProtectorFault(RuntimeError):
    """An error in the child that nobody foresaw.

    Attributes:
        kind: its type's name.
    """

    def __init__(self, kind: str, place: str) -> None:
        super().__init__(f"{kind} at {place}")
        self.kind = kind


class _Died(Exception):
    """The child ended without an answer."""


class _Late(Exception):
    """The child did not answer in time."""


@dataclass(frozen=True)
class GuardedEngine:
    """The child's description of its engine; see `rid.models.engines.Engine`."""

    name: str
    working_resolution: int
    multiple: int


class GuardedProtector:
    """Protects like `rid.models.protector.Protector`, in a child process a thread that calls it."""

    def __init__(
        self,
        load_model: Callable[[], bytes],
        policy: ProtectionPolicy,
        budget_levels: int,
        defender_digest: str | None = None,
    ) -> None:
        """Starts the first child.

        Args:
            load_model: returns the bytes of the ONNX file; called for every child, so that none are held here.
            policy: the policy, with the deadline and the memory of a photo.
            budget_levels: the budget, in 8-bit levels.
            defender_digest: see `rid.models.protector.Protector`.

        Raises:
            ValueError: if the file is not a defender.
            ProtectorUnavailable: if no child can be started.
        """
        self._load_model = load_model
        self._policy = policy
        self._budget_levels = budget_levels
        self._defender_digest = defender_digest
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        first = self._start()
        self.engine = first.engine
        self._idle.put(first)

    def protect(self, data: bytes, name: str = "", *, known_mark: bool = False) -> ProtectedPhoto:
        """Protects one photo.

        Args:
            data: the file.
            name: its name, for the check of the suffix.
            known_mark: see `rid.models.protector.Protector.protect`.

        Raises:
            AlreadyProtected: if its known mark holds.
            PhotoRefused: if the photo is to be quarantined; `deadline`, `out_of_memory` and `worker_killed` are added
                to the reasons of `Protector.protect`.
            ZeroPerturbation: if the defender outputs nothing at all.
            BudgetBroken: if a lossless file does not hold the budget.
            ProtectorFault: for an error that nobody foresaw.
        """
        refusal = PhotoRefused("worker_killed", f"{TRIES} processes died while they protected this photo")
        for _ in range(TRIES):
            child = self._take()
            try:
                answer, protected = child.ask(
                    {"name": name, "known_mark": known_mark}, data, self._policy.photo_seconds
                )
            except _Late:
                child.end()
                detail = f"protecting it takes longer than {self._policy.photo_seconds:g} s"
                raise PhotoRefused("deadline", detail) from None
            except _Died:
                child.end()
                continue
            except BaseException:
                child.end()
                raise
            if "out_of_memory" in answer:
                child.end()
                detail = f"protecting it takes more than {self._policy.photo_memory} bytes of memory"
                refusal = PhotoRefused("out_of_memory", detail)
                continue
            self._put_back(child)
            return _result(answer, protected)
        raise refusal

    def close(self) -> None:
        """Ends the children that are idle."""
        while True:
            try:
                self._idle.get_nowait().end()
            except queue.Empty:
                return

    def _take(self) -> _Child:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._start()

    def _put_back(self, child: _Child) -> None:
        if child.photos < RECYCLED_AFTER:
            self._idle.put(child)
        else:
            child.end()

    def _start(self) -> _Child:
        setup = {
            "policy": self._policy.to_json(),
            "budget_levels": self._budget_levels,
            "defender_digest": self._defender_digest,
        }
        try:
            model = self._load_model()
            child = _Child()
        except OSError as error:
            raise ProtectorUnavailable(f"the process that protects photos cannot be started: {error}") from error
        try:
            answer, _ = child.ask(setup, model, START_SECONDS)
        except (_Died, _Late) as error:
            child.end()
            what = "ended" if isinstance(error, _Died) else f"was not ready after {START_SECONDS:g} s"
            raise ProtectorUnavailable(f"the process that protects photos {what}: is there memory for it?") from None
        except BaseException:
            child.end()
            raise
        if "failed" in answer:
            child.end()
            raise ValueError(answer["failed"])
        child.engine = GuardedEngine(answer["engine"], answer["working_resolution"], answer["multiple"])
        child.photos = 0
        return child


class _Child:
    """One process and its two pipes."""

    engine: GuardedEngine

    def __init__(self) -> None:
        # The folder that the process was started in may hold modules of the same names, and a session of its own keeps
        # the signals of a terminal away; S3 credentials are of no use to a decoder.
        paths = os.pathsep.join(path for path in sys.path if Path(path).is_absolute())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        life, self._life = os.pipe()  # open as long as this process is: the child ends when it closes
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rid.models.protector_process", str(life)],
            pass_fds=(life,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | {"PYTHONPATH": paths},
            bufsize=0,
            start_new_session=True,
        )
        os.close(life)
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self.photos = 0

    def ask(self, values: dict[str, Any], data: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Sends a frame and returns the answer.

        Raises:
            _Late: if it is not there in time.
            _Died: if there will be none.
        """
        deadline = time.monotonic() + seconds
        self.photos += 1
        try:
            for part in to_frame(values, data):
                self._send(part, deadline)
        except BrokenPipeError:
            raise _Died from None
        text, size = LENGTHS.unpack(self._receive(LENGTHS.size, deadline))
        answer: dict[str, Any] = json.loads(self._receive(text, deadline))
        return answer, self._receive(size, deadline)

    def end(self) -> None:
        """Kills the process and waits for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.kill()
        self._process.wait()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.end()

    def _send(self, part: bytes, deadline: float) -> None:
        rest = memoryview(part)
        while rest:
            _wait(self._requests, select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._requests, rest[:CHUNK]) :]

    def _receive(self, size: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            _wait(self._replies, select.POLLIN, deadline)
            part = os.read(self._replies, min(CHUNK, size - len(found)))
            if not part:
                raise _Died
            found += part
        return bytes(found)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Blocks until a pipe is ready or broken."""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        raise _Late


def _result(answer: dict[str, Any], protected: bytes) -> ProtectedPhoto:
    """The child's answer as what `Protector.protect` would have returned or raised."""
    if "refused" in answer:
        raise PhotoRefused(*answer["refused"])
    if "already_protected" in answer:
        raise AlreadyProtected(Mark(**answer["already_protected"]), answer["format"])
    if "error" in answer:
        if answer["error"] in FATAL:
            raise FATAL[answer["error"]](answer["text"])
        raise ProtectorFault(answer["error"], answer["place"])
    fields = answer["protected"]
    return ProtectedPhoto(data=protected, **fields | {"flags": tuple(fields["flags"])})

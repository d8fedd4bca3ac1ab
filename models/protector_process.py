"""The process that protects one photo at a time, `python -m rid.models.protector_process`; GuardedProtector starts it.

Frames go both ways over standard input and output: eight bytes with two lengths, a JSON object, bytes. Nothing that
comes back is unpickled or executed, since it comes from where hostile files were decoded. The first frame brings the
policy and the defender; every other one a photo. The process ends with its input.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import struct
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from rid.models.engines import OnnxEngine
from rid.models.photo_files.marks import AlreadyProtected
from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import ProtectionPolicy
from rid.models.protector import BudgetBroken, Protector, ZeroPerturbation

LENGTHS = struct.Struct(">II")
STATUS = Path("/proc/self/status")  # Linux; elsewhere there is no limit of memory
GRACE_SECONDS = 5.0  # after the deadline, which the parent keeps: where nothing tells that the parent was killed
CV_OUT_OF_MEMORY = -4


def to_frame(values: dict[str, Any], data: bytes = b"") -> tuple[bytes, bytes]:
    """Returns a frame in two parts, so that the bytes of a photo are not copied."""
    text = json.dumps(values).encode()
    return LENGTHS.pack(len(text), len(data)) + text, data


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers photos until the input ends, or until one of them needed more memory than is allowed."""
    first = _read_frame(requests)
    if first is None:
        return
    setup, model = first
    cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold pixels
    try:
        policy = ProtectionPolicy.from_json(setup["policy"])
        engine = OnnxEngine(model)
        protector = Protector(engine, policy, setup["budget_levels"], setup["defender_digest"])
    except ValueError as error:
        _write_frame(replies, {"failed": str(error)})
        return
    del first, model
    _fall_silent()
    _limit_memory(policy.photo_memory)
    described = {"working_resolution": engine.working_resolution, "multiple": engine.multiple}
    _write_frame(replies, {"engine": engine.name, **described})
    while (request := _read_frame(requests)) is not None:
        values, data = request
        signal.setitimer(signal.ITIMER_REAL, policy.photo_seconds + GRACE_SECONDS)
        answer, protected = _answer(protector, data, values)
        signal.setitimer(signal.ITIMER_REAL, 0)
        del request, data
        _write_frame(replies, answer, protected)
        if "out_of_memory" in answer:
            return  # what is left of the memory is in pieces


def _answer(protector: Protector, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    try:
        result = protector.protect(data, request["name"], known_mark=request["known_mark"])
        values = asdict(result)
        data = values.pop("data")
        json.dumps(values)
    except PhotoRefused as refusal:
        return {"refused": [refusal.reason, refusal.detail]}, b""
    except AlreadyProtected as held:
        return {"already_protected": asdict(held.mark), "format": held.format}, b""
    except Exception as error:
        if is_out_of_memory(error):
            return {"out_of_memory": True}, b""
        text = str(error) if isinstance(error, ZeroPerturbation | BudgetBroken) else ""
        return {"error": type(error).__name__, "text": text, "place": place_of(error)}, b""
    return {"protected": values}, data


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that an allocation failed, as numpy, Pillow, OpenCV or ONNX Runtime put it."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == CV_OUT_OF_MEMORY:
        return True
    return type(error).__module__.startswith("onnxruntime") and "alloc" in str(error).lower()


def place_of(error: BaseException) -> str:
    """Names the code that raised an error. Its text is left out: it can hold metadata about a person."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"


def _end_with(life: int) -> None:
    """Lets the kernel end this process when the other end of a pipe closes, even while a library holds the interpreter.

    The default action of SIGIO is that; nothing is ever written into this pipe.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _fall_silent() -> None:
    """Throws away what libraries print of photos: it can flood a log, and quote what metadata says of a person."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _limit_memory(photo_memory: int) -> None:
    """Allows `photo_memory` bytes of data on top of what the process has with its defender loaded."""
    if not STATUS.exists():
        return
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmData:")]
    limit = 1024 * int(line.split()[1]) + photo_memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    text, size = LENGTHS.unpack(lengths)
    values: dict[str, Any] = json.loads(stream.read(text))
    return values, stream.read(size)


def _write_frame(stream: BinaryIO, values: dict[str, Any], data: bytes = b"") -> None:
    for part in to_frame(values, data):
        stream.write(part)
    stream.flush()


def main() -> None:
    """Keeps standard output for frames: whatever else a library prints goes to standard error."""
    _end_with(int(sys.argv[1]))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        os._exit(0)  # the parent was killed; there is nobody to tell


if __name__ == "__main__":
    main()

"""The checkpoint of a teacher's run: one blob in safetensors, written between rounds, whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

WRITING_SHARE = 0.05  # of the time may go into writing checkpoints
STATE = "state."


class CheckpointStore(Protocol):
    """Keeps one blob for one run: the same photos, the same teacher, the same models."""

    def read(self) -> bytes | None:
        """Returns the blob, or None if there is none."""

    def write(self, data: bytes) -> None:
        """Replaces it; a reader sees the old or the new one whole."""


class CheckpointFile:
    """A checkpoint in a local file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> bytes | None:
        """Returns its content, or None."""
        return self.file.read_bytes() if self.file.is_file() else None

    def write(self, data: bytes) -> None:
        """Writes beside it and renames over it."""
        temporary = self.file.with_name(self.file.name + ".writing")
        temporary.write_bytes(data)
        temporary.replace(self.file)

    def delete(self) -> None:
        """Removes it; none is fine."""
        self.file.unlink(missing_ok=True)


class CheckpointPace:
    """Writes a checkpoint when one is due: every `seconds`, or less often where writing takes long."""

    def __init__(self, store: CheckpointStore | None, seconds: float) -> None:
        self._store, self._seconds, self._last = store, seconds, time.monotonic()

    def offer(self, content: Callable[[], bytes]) -> None:
        """Takes the chance to write if it is time."""
        began = time.monotonic()
        if self._store is None or began - self._last < self._seconds:
            return
        self._store.write(content())
        self._last = time.monotonic()
        self._seconds = max(self._seconds, (self._last - began) / WRITING_SHARE)


def pack(tensors: dict[str, Tensor], state: dict[str, Tensor], step: int) -> bytes:
    """Serialises the ascent's tensors, the method's state and the number of finished steps."""
    named = tensors | {STATE + name: value for name, value in state.items()} | {"step": torch.tensor(step)}
    return save({name: value.detach().cpu().contiguous() for name, value in named.items()})


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Returns what `pack` was given, on the CPU."""
    named = load(data)
    step = int(named.pop("step"))
    state = {name.removeprefix(STATE): named.pop(name) for name in list(named) if name.startswith(STATE)}
    return named, state, step

"""The log of a run: one JSON line a logged step, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

LOG_FILE = "log.jsonl"
SCALARS = ("loss", "adv_sds", "regression", "displacement", "spaces", "learning_rate", "gradient_norm")
CURVES = ("adv_sds", "regression", "displacement", "spaces")


class RunLog:
    """Appends to a folder's log. Steps that a resumed run does again are dropped first, and so is a torn line."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Opens the log.

        Args:
            folder: of the run; gets `log.jsonl` and `tensorboard/`.
            first_step: the step that is done next.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.earlier_seconds = _keep_earlier(folder / LOG_FILE, first_step)
        self._lines = (folder / LOG_FILE).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()

    def write(self, record: dict[str, Any]) -> None:
        """Adds one step."""
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()
        for name in SCALARS:
            self._board.add_scalar(name, record[name], record["step"])


def read_log(file: Path) -> list[dict[str, Any]]:
    """Returns the records of a log; a last line that a killed process left half written is passed over."""
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]


def summarise_losses(records: Sequence[dict[str, Any]], points: int = 100) -> dict[str, list[float]]:
    """Returns the losses of a run, averaged over equal stretches, small enough for the defender's card.

    Args:
        records: of the log, at least one.
        points: stretches at most; each has the last step in it as its "step".

    Returns:
        Lists of equal length: "step" and the weighted losses of CURVES.
    """
    stretches = [part for part in np.array_split(np.arange(len(records)), min(points, len(records))) if len(part)]
    curves: dict[str, list[float]] = {"step": [records[part[-1]]["step"] for part in stretches]}
    for name in CURVES:
        curves[name] = [float(f"{np.mean([records[i][name] for i in part]):.5g}") for part in stretches]
    return curves


def _keep_earlier(file: Path, first_step: int) -> float:
    """Rewrites the log with the records before a step, and returns the seconds they took."""
    kept = [record for record in read_log(file) if record["step"] < first_step]
    temporary = file.with_suffix(".writing")
    with temporary.open("w", encoding="utf-8") as written:
        written.writelines(json.dumps(record) + "\n" for record in kept)
        written.flush()
        os.fsync(written.fileno())
    temporary.replace(file)
    return float(kept[-1]["seconds"]) if kept else 0.0

"""The training of a defender on a worker: fetches, trains in one process or in one for each GPU, stores the result."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rid.assets.reports.pairs import PhotoPair
from rid.assets.reports.pictures import contact_sheet, jpeg
from rid.assets.teaching.run_photos import load_photo_set
from rid.assets.teaching.training_processes import launch, process_count
from rid.assets.teaching.training_task import (
    DEFENDER,
    INITIAL,
    PHOTOS,
    SAMPLES,
    STATE,
    OnStep,
    TrainingTask,
    store_board,
    train_here,
)
from rid.resources.defender_registry import DefenderEntry, DefenderRegistry, fetch_defender
from rid.resources.storage import Storage


def train(task: TrainingTask, on_step: OnStep | None = None) -> str:
    """Trains a defender, puts it where it was asked for, and returns its digest.

    The run's folder gets `log.jsonl` and `tensorboard/`. Each checkpoint is copied there, so that whichever worker gets
    the task after a kill goes on where it was.

    Args:
        task: what to train.
        on_step: called with the record of each step.

    Raises:
        ValueError: if photos, models or the checkpoint do not fit the task.
        TrainingDiverged: if the loss explodes or stops being finite.
    """
    processes = process_count(task.processes, task.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch_checkpoint(task.run, folder)
        if task.initial is not None:
            fetch_initial(task.initial, folder / INITIAL)
        load_photo_set(task.home, task.run, folder / PHOTOS)  # fetched once, whatever the number of processes
        if processes == 1:
            train_here(task, folder, on_step)
        else:
            launch(task, folder, processes, on_step)
        digest = str(json.loads((folder / DEFENDER / "config.json").read_bytes())["digest"])
        if task.output is not None:
            _add_onnx(folder / DEFENDER)
            _copy(folder / DEFENDER, task.output)
        if task.registry is not None:
            DefenderRegistry(task.registry, folder).register(folder / DEFENDER)
        store_board(task.run, folder)
        if task.shown:
            task.run.write_bytes(SAMPLES, _sample_sheet(task, folder))
    return digest


def sample_sheet(defender: Any, pixels: NDArray[np.uint8], budget_levels: int) -> bytes:
    """Draws (B, S, S, 3) photos as they are, protected, and the amplified change; a JPEG, twice as large."""
    from rid.training.evaluation.effect.defended import perturb_squares

    changes = perturb_squares(defender, pixels, budget_levels)
    pairs = [
        PhotoPair(str(i), clean, (clean + change).astype(np.uint8))
        for i, (clean, change) in enumerate(zip(pixels, changes, strict=True))
    ]
    return jpeg(contact_sheet(pairs, budget_levels).repeat(2, axis=0).repeat(2, axis=1))


def fetch_checkpoint(run: Storage, folder: Path) -> None:
    """Copies a run's last checkpoint and its log here, if there are any."""
    for name in ("log.jsonl", STATE):
        if run.exists(name):
            (folder / name).write_bytes(run.read_bytes(name))


def fetch_initial(entry: DefenderEntry, folder: Path) -> None:
    """Fetches and checks the defender that a training starts from."""
    files = {name: sha for name, sha in entry.config["files"].items() if name.endswith(".safetensors")}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(entry.config), encoding="utf-8")
    for name, data in fetch_defender(entry.location, entry.digest, files).items():
        (folder / name).write_bytes(data)


def _add_onnx(folder: Path) -> None:
    from rid.training.exporting import add_onnx

    add_onnx(folder)


def _copy(folder: Path, output: Storage) -> None:
    """Copies a defender's files; config.json, which describes them, last."""
    config = folder / "config.json"
    for file in sorted(folder.iterdir(), key=lambda file: (file == config, file.name)):
        output.write_file(file.name, file)


def _sample_sheet(task: TrainingTask, folder: Path) -> bytes:
    from rid.models.checkpoint import load_defender

    defender, _ = load_defender(folder / DEFENDER)
    photos = load_photo_set(task.home, task.run, folder / PHOTOS)
    return sample_sheet(defender, photos.pixels[: task.shown], task.config.budget_default)

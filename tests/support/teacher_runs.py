"""Small real runs of teachers on models with random weights, and what kills them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from training_runs import SIDE, die, random_model

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.checkpoint import CheckpointFile
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.methods import precompute_perturbations

# Few steps of everything; enough rounds for a checkpoint in the middle.
SURROGATE = {"training_steps": 1, "learning_rate": 1e-3}
OPTIONS: dict[str, dict[str, Any]] = {
    "fsmg": {**SURROGATE, "training_steps": 2},
    "aspl": {**SURROGATE, "ascent_steps": 2},
    "simac": {**SURROGATE, "ascent_steps": 2, "candidates": 2, "radius": 250, "remaining": 600},
    "metacloak": {**SURROGATE, "pool": 2, "stagger": 1, "unroll": 2},
}


def small_config(method: str, **changes: Any) -> TeacherConfig:
    """A teacher of four steps."""
    fields = {"method": method, "budget_levels": 5, "steps": 4, "step_levels": 1.6, "batch": 3}
    return TeacherConfig.from_json({**fields, "options": OPTIONS.get(method, {}), **changes})


def small_photos(count: int = 3, seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    """Blocks of colour over noise, with black and white ones, where 0 and 255 are in the way."""
    random = np.random.default_rng(seed)
    blocks = random.choice([0, 60, 128, 200, 255], (count, side // 8, side // 8, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(blocks + random.normal(0, 6, blocks.shape), 0, 255).astype(np.uint8)


def small_models(count: int = 1) -> list[FrozenDiffusion]:
    """One or two models with random weights that share an autoencoder."""
    torch.set_num_threads(1)
    return [random_model(), random_model("v_prediction", seed=1)][:count]


class Kept:
    """A checkpoint store that remembers every blob."""

    def __init__(self, start: bytes | None = None) -> None:
        self.start, self.blobs = start, []

    def read(self) -> bytes | None:
        return self.start

    def write(self, data: bytes) -> None:
        self.blobs.append(data)


def perturb_and_die(method: str, file: str, step: int) -> None:
    """Perturbs with a checkpoint whenever there can be one, and kills itself after a step."""

    def on_step(progress: Any) -> None:
        if progress.step == step:
            die()

    precompute_perturbations(
        small_photos(),
        small_models(),
        small_config(method),
        checkpoint=CheckpointFile(Path(file)),
        checkpoint_seconds=0,
        on_step=on_step,
    )


def run_task_and_die(task: Any, writes: int, environment: dict[str, str]) -> None:
    """Runs a teacher's task, and kills itself after it has written its n-th checkpoint."""
    from rid.assets.teaching import teacher_cache
    from rid.training.teachers import pgd

    os.environ.update(environment)
    torch.set_num_threads(1)
    done, real_write, real_pace = 0, teacher_cache.StoredCheckpoint.write, pgd.CheckpointPace

    def write_and_die(self: Any, data: bytes) -> None:
        nonlocal done
        real_write(self, data)
        done += 1
        if done == writes:
            die()

    teacher_cache.StoredCheckpoint.write = write_and_die  # type: ignore[method-assign]
    pgd.CheckpointPace = lambda store, seconds: real_pace(store, 0)  # type: ignore[assignment,misc]
    from rid.assets.teaching.teacher_tasks import precompute_batch

    precompute_batch(task)

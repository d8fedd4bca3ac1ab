"""The photos that an attacker gets in a cell: clean, protected, or with noise as large as the protection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.models.networks import Network
from rid.training.evaluation.cells import CLEAN, NOISE, TEACHER, UNTRAINED, Cell
from rid.training.evaluation.effect.controls import gaussian_control
from rid.training.evaluation.effect.defended import perturb_squares
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.methods import precompute_perturbations

TEACHER_STEPS = 60
TARGETS = {"encoder": "none", "mist": "none"}  # away from the photo's own latents


def protect_photos(
    cell: Cell,
    clean: NDArray[np.uint8],
    model: FrozenDiffusion,
    defender_of: Callable[[str], Network],
    *,
    seed: int,
    teacher_seed: int,
) -> NDArray[np.uint8]:
    """Returns photos of which the first share is protected as the cell says.

    Args:
        cell: what is done.
        clean: (N, S, S, 3) photos.
        model: what a teacher attacks.
        defender_of: returns a defender by name.
        seed: of the noise.
        teacher_seed: of the teacher.
    """
    if cell.kind in (CLEAN, UNTRAINED):
        return clean
    count = round(cell.share * len(clean))
    chosen = clean[:count]
    if cell.kind == TEACHER:
        levels = precompute_perturbations(chosen, [model], teacher_config(cell.name, cell.budget, teacher_seed))
        protected = (chosen.astype(np.int16) + levels).astype(np.uint8)
    else:
        protected = defend(defender_of(cell.name), chosen, cell.budget)
        if cell.kind == NOISE:
            protected = matched_noise(chosen, protected, seed)
    return np.concatenate([protected, clean[count:]])


def teacher_config(method: str, budget: int, seed: int) -> TeacherConfig:
    """The teacher as the study runs it: 60 steps, each an eighth of the budget long."""
    options = {"target": TARGETS[method]} if method in TARGETS else {}
    return TeacherConfig.from_json(
        {
            "method": method,
            "budget_levels": budget,
            "steps": TEACHER_STEPS,
            "step_levels": max(1.0, budget / 8),
            "seed": seed,
            "options": options,
        }
    )


def defend(defender: Network, photos: NDArray[np.uint8], budget: int) -> NDArray[np.uint8]:
    """Protects (N, S, S, 3) photos of the defender's resolution in one pass."""
    return (photos + perturb_squares(defender, photos, budget)).astype(np.uint8)


def matched_noise(clean: NDArray[np.uint8], protected: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Returns the clean photos with rounded Gaussian noise of each perturbation's norm."""
    noisy = [
        photo + gaussian_control(photo, other.astype(np.int16) - photo, seed + index)
        for index, (photo, other) in enumerate(zip(clean, protected, strict=True))
    ]
    return np.stack(noisy).astype(np.uint8)

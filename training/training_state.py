"""A training run between two optimiser steps, and its checkpoint: one file that appears whole."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rid.models.budget import BudgetRange
from rid.models.networks import SIZES, Network, make_network
from rid.training.config import TrainingConfig

STATE_FILE = "state.pt"
WRITING = "state.pt.writing"  # what a killed process may leave behind; it is never read


@dataclass
class TrainingState:
    """Everything that a run needs to go on; the learning rate is a function of `step` and needs no state.

    Attributes:
        defender: the weights being optimised.
        average: their exponential moving average, which is what a run returns; it refuses other budgets than the run's.
        optimiser: AdamW.
        step: number of finished steps.
        usual_loss: running mean of the absolute loss, against which an explosion is told.
    """

    defender: Network
    average: Network
    optimiser: torch.optim.Optimizer
    step: int = 0
    usual_loss: float = 0.0

    @torch.no_grad()
    def update_average(self, largest_decay: float) -> None:
        """Moves the average towards the weights; it is short in the first steps."""
        decay = min(largest_decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.defender.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def is_finite(self) -> bool:
        """Returns whether every weight is a finite number."""
        return all(bool(torch.isfinite(value).all()) for value in self.defender.parameters())


def fresh_state(config: TrainingConfig, initial: Network | None, device: torch.device) -> TrainingState:
    """Returns the state before the first step.

    Raises:
        ValueError: if `initial` has another architecture than the configuration.
    """
    torch.manual_seed(config.seed)
    defender = make_network(SIZES[config.size])
    if initial is not None:
        if initial.size != defender.size:
            raise ValueError(
                f"the defender to start from is {initial.size} where {config.size} is {defender.size}: "
                "choose a recipe or a size that fits it"
            )
        defender.load_state_dict(initial.state_dict())
    defender = defender.to(device).train()
    average = copy.deepcopy(defender).eval().requires_grad_(False)
    average.budget = BudgetRange(config.budget_min, config.budget_max, config.budget_default)
    optimiser = torch.optim.AdamW(
        defender.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    return TrainingState(defender, average, optimiser)


def save_state(folder: Path, state: TrainingState, run: dict[str, Any]) -> None:
    """Writes the checkpoint beside the old one and renames it over, so that either is whole.

    Args:
        folder: of the run.
        state: what is saved.
        run: JSON that names the run; `resume` refuses a checkpoint of another one.
    """
    content = {
        "run": run,
        "defender": state.defender.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "usual_loss": state.usual_loss,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    temporary = folder / WRITING
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / STATE_FILE)
    _sync_folder(folder)


def resume(folder: Path, fresh: TrainingState, run: dict[str, Any]) -> TrainingState:
    """Returns the state of the folder's checkpoint, or the fresh one if there is none.

    Raises:
        ValueError: if the checkpoint is another run's; the sentence says what differs.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        return fresh
    saved = torch.load(file, map_location="cpu", weights_only=True)
    _check_same_run(folder, saved["run"], run)
    fresh.defender.load_state_dict(saved["defender"])
    fresh.average.load_state_dict(saved["average"])
    fresh.optimiser.load_state_dict(saved["optimiser"])
    fresh.step, fresh.usual_loss = int(saved["step"]), float(saved["usual_loss"])
    torch.set_rng_state(saved["random"])
    if len(saved["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["random_cuda"])
    return fresh


def _check_same_run(folder: Path, saved: dict[str, Any], run: dict[str, Any]) -> None:
    different = sorted(key for key in saved.keys() | run.keys() if saved.get(key) != run.get(key))
    if different:
        changes = "; ".join(f"{key} was {saved.get(key)!r} and is {run.get(key)!r}" for key in different)
        raise ValueError(
            f"{folder} holds the checkpoint of another run ({changes}): give another folder, or delete this one"
        )


def _sync_folder(folder: Path) -> None:
    """Makes the rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Trains a defender: Adv-SDS through frozen models, plus regression to teacher perturbations.

A run's folder holds `log.jsonl` (one line a logged step) and `state.pt` (everything needed to go on). Each checkpoint
appears whole, so a killed run resumes from the last one.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.budget import levels_to_signed
from models.defender import SIZES, Defender
from models.frozen_diffusion import FrozenDiffusion
from training.adv_sds import ensemble_adv_sds_loss
from training.batches import Batch, make_batch, step_generator
from training.config import TrainingConfig
from training.photo_set import PhotoSet
from training.regression import regression_loss

LOG_EVERY = 10


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is not a finite number; the last checkpoint is good."""


@dataclass(frozen=True)
class Losses:
    """One step's losses; a term that is left out is zero."""

    total: Tensor
    adv_sds: Tensor
    regression: Tensor


@dataclass(frozen=True)
class TrainingState:
    """A run between two steps.

    Attributes:
        defender: the weights being optimised.
        average: their exponential moving average, which is what a run returns.
        optimiser: AdamW.
        step: number of finished steps.
    """

    defender: Defender
    average: Defender
    optimiser: torch.optim.Optimizer
    step: int


def training_losses(
    defender: Defender,
    models: Sequence[FrozenDiffusion],
    batch: Batch,
    config: TrainingConfig,
    generator: torch.Generator,
) -> Losses:
    """Returns L_AdvSDS and lambda L_reg of one batch (paper, eq. 9 and 10)."""
    zero = batch.image.new_zeros(())
    adv_sds = regression = zero
    if config.adv_sds_weight:
        perturbation = levels_to_signed(defender(batch.image, batch.budget_levels))  # (B, 3, S, S)
        protected = (batch.image + perturbation).clamp(-1, 1)  # (B, 3, S, S)
        adv_sds = config.adv_sds_weight * ensemble_adv_sds_loss(models, protected, generator)
    if config.regression_weight and len(batch.pair_image):
        perturbation = levels_to_signed(defender(batch.pair_image, batch.pair_budget_levels))  # (P, 3, S, S)
        regression = config.regression_weight * regression_loss(perturbation, batch.pair_perturbation)
    return Losses(total=adv_sds + regression, adv_sds=adv_sds, regression=regression)


def train_defender(
    config: TrainingConfig,
    photos: PhotoSet,
    models: Sequence[FrozenDiffusion],
    folder: Path,
    *,
    initial: Defender | None = None,
    device: str = "cpu",
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Defender:
    """Trains, or goes on from the folder's last checkpoint, and returns the averaged defender.

    Args:
        config: the run.
        photos: at the working resolution of `config.size`.
        models: at least one frozen model unless the Adv-SDS term is left out.
        folder: where the log and the checkpoint lie.
        initial: weights to start from instead of a fresh network.
        device: "cpu" or a CUDA device.
        on_step: called with each logged record.

    Raises:
        ValueError: if photos or models do not fit the configuration.
        TrainingDiverged: if the loss stops being finite.
    """
    _check_inputs(config, photos, models)
    folder.mkdir(parents=True, exist_ok=True)
    target = torch.device(device)
    state = _resume(folder, _fresh_state(config, initial, target))
    began = time.monotonic()
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in range(state.step, config.steps):
            _set_learning_rate(state.optimiser, config, step)
            losses = _optimise(state, models, make_batch(photos, config, step).to(target), config, step)
            if step % LOG_EVERY == 0 or step + 1 == config.steps:
                record = _record(step, losses, config, time.monotonic() - began)
                log.write(json.dumps(record) + "\n")
                log.flush()
                if on_step:
                    on_step(record)
            state = TrainingState(state.defender, state.average, state.optimiser, step + 1)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                _save_state(folder, state)
    return state.average.eval()


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Linear warm-up from zero, then linear decay to zero at the last step."""
    warm_up = min(1.0, (step + 1) / max(1, config.warm_up_steps))
    decay = (config.steps - step) / max(1, config.steps - config.warm_up_steps)
    return min(warm_up, decay, 1.0)


def autocast_type(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Returns the autocast type, or None for plain float32."""
    if config.precision == "float32":
        return None
    if config.precision == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    # A CPU without bfloat16 instructions emulates them, forty times slower than float32.
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else None


def _optimise(
    state: TrainingState, models: Sequence[FrozenDiffusion], batch: Batch, config: TrainingConfig, step: int
) -> Losses:
    device = batch.image.device
    kind = autocast_type(config, device)
    with torch.autocast(device.type, dtype=kind or torch.bfloat16, enabled=kind is not None):
        losses = training_losses(state.defender, models, batch, config, step_generator(config.seed, step, 0))
    state.optimiser.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(state.defender.parameters(), config.gradient_clip)
    if not (math.isfinite(losses.total.item()) and math.isfinite(norm.item())):
        raise TrainingDiverged(
            f"the loss stopped being a finite number at step {step}: lower learning_rate (now {config.learning_rate}) "
            "or use precision float32; the last checkpoint is good and a new run resumes from it"
        )
    state.optimiser.step()
    _update_average(state.average, state.defender, min(config.ema_decay, (1 + step) / (10 + step)))
    return losses


@torch.no_grad()
def _update_average(average: Defender, defender: Defender, decay: float) -> None:
    for mean, value in zip(average.parameters(), defender.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def _set_learning_rate(optimiser: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * learning_rate_factor(config, step)


def _fresh_state(config: TrainingConfig, initial: Defender | None, device: torch.device) -> TrainingState:
    torch.manual_seed(config.seed)
    defender = Defender(SIZES[config.size]).to(device)
    if initial is not None:
        defender.load_state_dict(initial.state_dict())
    average = copy.deepcopy(defender).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        defender.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.999)
    )
    return TrainingState(defender.train(), average, optimiser, 0)


def _save_state(folder: Path, state: TrainingState) -> None:
    """Writes the checkpoint beside the old one and renames it over, so that either is whole."""
    temporary = folder / "state.pt.writing"
    with temporary.open("wb") as file:
        torch.save(
            {
                "defender": state.defender.state_dict(),
                "average": state.average.state_dict(),
                "optimiser": state.optimiser.state_dict(),
                "step": state.step,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "state.pt")


def _resume(folder: Path, fresh: TrainingState) -> TrainingState:
    """Returns the state of the last whole checkpoint in the folder, or the fresh one if there is none."""
    file = folder / "state.pt"
    if not file.is_file():
        return fresh
    saved = torch.load(file, map_location=fresh.defender.positions.device, weights_only=True)
    fresh.defender.load_state_dict(saved["defender"])
    fresh.average.load_state_dict(saved["average"])
    fresh.optimiser.load_state_dict(saved["optimiser"])
    return TrainingState(fresh.defender, fresh.average, fresh.optimiser, int(saved["step"]))


def _record(step: int, losses: Losses, config: TrainingConfig, seconds: float) -> dict[str, Any]:
    return {
        "step": step,
        "steps": config.steps,
        "loss": losses.total.item(),
        "adv_sds": losses.adv_sds.item(),
        "regression": losses.regression.item(),
        "learning_rate": config.learning_rate * learning_rate_factor(config, step),
        "seconds": round(seconds, 1),
    }


def _check_inputs(config: TrainingConfig, photos: PhotoSet, models: Sequence[FrozenDiffusion]) -> None:
    size = SIZES[config.size].working_resolution
    if photos.pixels.shape[1:] != (size, size, 3):
        raise ValueError(f"photos are {photos.pixels.shape[1:]} where {config.size} needs {(size, size, 3)}")
    if config.adv_sds_weight and not models:
        raise ValueError("Adv-SDS needs at least one frozen diffusion model: list one in `models`")
    if not config.adv_sds_weight and not len(photos.teacher):
        raise ValueError("a regression needs teacher perturbations: materialise teacher_perturbations first")

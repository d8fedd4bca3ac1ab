"""Trains a defender: Adv-SDS through frozen models, plus regression to teacher perturbations.

A run's folder holds `log.jsonl`, `tensorboard/` and `state.pt` (everything needed to go on, `training_state`). Batches
and noise depend on the seed and the step alone, and the learning rate on the step, so a run that was killed ends as if
it had not been: on the CPU with equal bits, for the same number of threads.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rid.models.frozen_diffusion import FrozenDiffusion, checkpoint_autoencoders, weights_digest
from rid.models.latent_space import LatentSpace
from rid.models.networks import SIZES, Network
from rid.training.batches import Batch, DrawnBatch, draw_batch
from rid.training.config import TrainingConfig
from rid.training.devices import (
    allowing_tf32,
    autocast,
    device_numerics,
    training_accelerator,
    with_half_denoisers,
)
from rid.training.losses import training_losses
from rid.training.photo_set import PhotoSet
from rid.training.prefetch import Prefetch
from rid.training.run_log import RunLog
from rid.training.space_displacement import SpaceTarget, chosen_targets, space_targets
from rid.training.training_state import TrainingState, fresh_state, resume, save_state
from rid.training.views import resized

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_EVERY = 10  # steps
UNIT_STEPS = 4  # whose photos tell the standard deviation of latents
EXPLODED = 100.0  # times the usual loss; Adv-SDS at one photo a step varies by a factor of ten
USUAL_AFTER = 20  # steps
USUAL_DECAY = 0.98

OnStep = Callable[[dict[str, Any]], None]


class TrainingDiverged(RuntimeError):
    """The loss, its gradient or a weight is no finite number, or the loss exploded; the last checkpoint is good."""


@dataclass(frozen=True)
class StepResult:
    """The record of one optimiser step, over all processes.

    Attributes:
        adv_sds: weighted Adv-SDS loss, a mean over the step's photos.
        regression: weighted regression loss, a mean over the step's pairs.
        displacement: weighted latent displacement, a mean over the step's photos.
        spaces: weighted displacement in latent spaces, with its penalties.
        gradient_norm: before clipping.
    """

    adv_sds: float
    regression: float
    displacement: float
    spaces: float
    gradient_norm: float

    @property
    def loss(self) -> float:
        """The sum that was descended."""
        return self.adv_sds + self.regression + self.displacement + self.spaces


def train_defender(
    config: TrainingConfig,
    photos: PhotoSet,
    models: Sequence[FrozenDiffusion],
    folder: Path,
    *,
    spaces: Sequence[LatentSpace] = (),
    initial: Network | None = None,
    accelerator: Accelerator | None = None,
    on_step: OnStep | None = None,
    on_checkpoint: Callable[[int], None] | None = None,
) -> Network:
    """Trains, or goes on from the folder's checkpoint, and returns the averaged defender.

    Args:
        config: the run.
        photos: squares of at least the working resolution of `config.size`.
        models: at least one frozen model unless the Adv-SDS term is left out; on the accelerator's device.
        folder: where the log and the checkpoint lie; every process has to see it.
        spaces: latent spaces, if the recipe moves photos in them; on the accelerator's device.
        initial: weights to start from instead of a fresh network.
        accelerator: of this process; by default that of the models' device.
        on_step: called with each step's record, in the main process.
        on_checkpoint: called with the number of finished steps after each checkpoint, in the main process.

    Raises:
        ValueError: if photos, models or the folder's checkpoint do not fit the configuration.
        TrainingDiverged: if the loss explodes or stops being finite.
    """
    accelerator = accelerator or training_accelerator(models[0].device.type if models else "auto")
    _check_inputs(config, photos, models, accelerator.num_processes)
    if config.space_weight and not spaces:
        raise ValueError("the loss needs at least one latent space: list one in `spaces`")
    checkpoint_autoencoders(models, config.vae_checkpointing)
    folder.mkdir(parents=True, exist_ok=True)
    run = run_identity(config, photos, models, initial, spaces if config.space_weight else ())
    state = resume(folder, fresh_state(config, initial, accelerator.device), run)
    network, optimiser = accelerator.prepare(state.defender, state.optimiser)
    numerics = device_numerics(config.precision, accelerator.device)
    models = with_half_denoisers(models, numerics)
    targets = _space_targets(config, photos, spaces, accelerator.device)
    with (
        RunLog(folder, state.step) if accelerator.is_main_process else contextlib.nullcontext() as log,
        Prefetch(_draw(photos, config, accelerator), range(state.step, config.steps)) as batches,
        allowing_tf32(numerics),
    ):
        began = time.monotonic() - (log.earlier_seconds if log else 0.0)
        while state.step < config.steps:
            step = state.step
            batch = batches.take().to(accelerator.device)
            result = _optimise(accelerator, network, optimiser, state, models, batch, config, targets)
            if log:
                record = _record(step, result, config, time.monotonic() - began)
                if step % LOG_EVERY == 0 or state.step == config.steps:
                    log.write(record)
                if on_step:
                    on_step(record)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                if not state.is_finite():
                    raise TrainingDiverged(_sentence("a weight stopped being a finite number", step, config))
                if accelerator.is_main_process:
                    save_state(folder, state, run)
                    if on_checkpoint:
                        on_checkpoint(state.step)
                accelerator.wait_for_everyone()
    return state.average.eval()


def run_identity(
    config: TrainingConfig,
    photos: PhotoSet,
    models: Sequence[FrozenDiffusion],
    initial: Network | None,
    spaces: Sequence[LatentSpace] = (),
) -> dict[str, Any]:
    """Returns what a checkpoint's run is recognised by: digests of photos, perturbations and every model's weights."""
    return {
        **config.to_json(),
        "spaces": [f"{space.channels} channels, encoder {space.digest[:12]}" for space in spaces],
        "photos": f"{len(photos.pixels)} with digest {photos.photos_digest()[:16]}",
        "perturbations": f"{len(photos.teacher)} with digest {photos.teacher_digest()[:16]}",
        "initial": weights_digest(initial) if initial else None,
        "models": [model.describe() for model in models],
    }


def _space_targets(
    config: TrainingConfig, photos: PhotoSet, spaces: Sequence[LatentSpace], device: torch.device
) -> list[SpaceTarget]:
    """Measures the units of the latent spaces on the photos of the run's first steps."""
    if not config.space_weight:
        return []
    with torch.no_grad():
        views = [
            resized(draw_batch(photos, config, step).to(device).image, config.view_side).clamp(-1, 1)
            for step in range(UNIT_STEPS)
        ]
        return space_targets(spaces, torch.cat(views))


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Linear warm-up from zero, then linear decay that reaches zero when the run ends.

    A function of the optimiser step alone: neither resuming nor more processes can shift it.
    """
    warm_up = min(1.0, (step + 1) / max(1, config.warm_up_steps))
    decay = (config.steps - step) / max(1, config.steps - config.warm_up_steps)
    return min(warm_up, decay, 1.0)


def _draw(photos: PhotoSet, config: TrainingConfig, accelerator: Accelerator) -> Callable[[int], DrawnBatch]:
    """Returns what draws this process's part of a step's batch, in page-locked memory where a GPU takes it."""
    process, processes = accelerator.process_index, accelerator.num_processes
    pinned = accelerator.device.type == "cuda"

    def draw(step: int) -> DrawnBatch:
        batch = draw_batch(photos, config, step, process=process, processes=processes)
        return batch.pinned() if pinned else batch

    return draw


def _optimise(
    accelerator: Accelerator,
    network: Any,
    optimiser: Any,
    state: TrainingState,
    models: Sequence[FrozenDiffusion],
    batch: Batch,
    config: TrainingConfig,
    targets: Sequence[SpaceTarget],
) -> StepResult:
    """Does one optimiser step: gradients of micro-batches add up, those of processes are averaged."""
    step = state.step
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * learning_rate_factor(config, step)
    optimiser.zero_grad(set_to_none=True)
    chosen = chosen_targets(targets, config, step)
    seen = _accumulate_gradients(accelerator, network, models, batch, config, step, chosen)  # (4,)
    seen = accelerator.reduce(seen, "mean") if accelerator.num_processes > 1 else seen
    norm = float(accelerator.clip_grad_norm_(network.parameters(), config.gradient_clip))
    adv_sds, regression, displacement, spaces = seen.tolist()
    result = StepResult(adv_sds, regression, displacement, spaces, norm)
    _check_loss(result, state, config)
    optimiser.step()
    state.update_average(config.ema_decay)
    decay = min(USUAL_DECAY, step / (step + 1))
    state.usual_loss = decay * state.usual_loss + (1 - decay) * abs(result.loss)
    state.step += 1
    return result


def _accumulate_gradients(
    accelerator: Accelerator,
    network: Any,
    models: Sequence[FrozenDiffusion],
    batch: Batch,
    config: TrainingConfig,
    step: int,
    targets: Sequence[SpaceTarget],
) -> torch.Tensor:
    """Backpropagates each micro-batch with its share of the whole step's means; returns the (4,) weighted losses.

    Processes average their gradients, so that each weighs its own by their number.
    """
    parts = batch.split(config.micro_batch or max(config.batch, config.pair_batch))
    pairs = config.pair_batch if config.regression_weight else 0
    seen = torch.zeros(4, device=accelerator.device)
    for part in parts:
        photo_share = accelerator.num_processes * len(part.image) / config.batch
        pair_share = accelerator.num_processes * len(part.pair_image) / max(1, pairs)
        last = part is parts[-1]
        with contextlib.nullcontext() if last else accelerator.no_sync(network):
            with autocast(config.precision, accelerator.device):
                losses = training_losses(network, models, part, config, step, targets)
            weighted = torch.stack(
                [
                    photo_share * losses.adv_sds,
                    pair_share * losses.regression,
                    photo_share * losses.displacement,
                    photo_share * losses.spaces,
                ]
            )
            accelerator.backward(weighted.sum())
        seen += weighted.detach()
    return seen


def _check_loss(result: StepResult, state: TrainingState, config: TrainingConfig) -> None:
    if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
        raise TrainingDiverged(_sentence("the loss stopped being a finite number", state.step, config))
    if config.space_weight:
        return  # a logarithm cannot explode, and its mean passes through zero
    if state.step >= USUAL_AFTER and abs(result.loss) > EXPLODED * state.usual_loss > 0:
        what = f"the loss exploded to {result.loss:.3g} where {state.usual_loss:.3g} is usual"
        raise TrainingDiverged(_sentence(what, state.step, config))


def _sentence(what: str, step: int, config: TrainingConfig) -> str:
    good = step - step % config.checkpoint_every
    kept = f"the checkpoint after step {good} is good and was kept" if good else "there was no checkpoint yet"
    return (
        f"{what} at step {step}; {kept}: train again with a learning_rate below {config.learning_rate}, or with "
        "precision float32"
    )


def _record(step: int, result: StepResult, config: TrainingConfig, seconds: float) -> dict[str, Any]:
    return {
        "step": step,
        "steps": config.steps,
        "loss": result.loss,
        "adv_sds": result.adv_sds,
        "regression": result.regression,
        "displacement": result.displacement,
        "spaces": result.spaces,
        "gradient_norm": result.gradient_norm,
        "learning_rate": config.learning_rate * learning_rate_factor(config, step),
        "seconds": round(seconds, 1),
    }


def _check_inputs(config: TrainingConfig, photos: PhotoSet, models: Sequence[FrozenDiffusion], processes: int) -> None:
    side = SIZES[config.size].working_resolution
    if photos.side < side:
        raise ValueError(f"photos are {photos.side} px where {config.size} needs at least {side}: read them larger")
    if config.uses_models and not models:
        raise ValueError("the loss needs at least one frozen diffusion model: list one in `models`")
    if not config.uses_photos and not len(photos.teacher):
        raise ValueError("a regression needs teacher perturbations: materialise teacher_perturbations first")
    learned = len(photos.teacher) > 0 and config.regression_weight > 0
    if learned and not config.budget_min <= photos.teacher_budget <= config.budget_max:
        raise ValueError(
            f"the perturbations were made with a budget of {photos.teacher_budget} levels, but the recipe "
            f"{config.recipe} trains with {config.budget_min} to {config.budget_max}: precompute them with one of those"
        )
    smallest = config.batch if config.uses_photos else config.pair_batch
    if smallest < processes:
        raise ValueError(f"a batch of {smallest} leaves some of {processes} processes idle: raise it or use fewer")

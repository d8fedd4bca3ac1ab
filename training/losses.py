"""The loss of a defender: L_AdvSDS + lambda L_reg (paper, eq. 9 and 10), and optionally the latent displacement.

B photos, P pairs, S working resolution; without an Adv-SDS term batches hold no photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rid.models.budget import levels_to_signed
from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.adv_sds import ensemble_adv_sds_loss
from rid.training.batches import Batch
from rid.training.config import TrainingConfig
from rid.training.displacement import displacement_loss
from rid.training.noise import StepNoise
from rid.training.regression import regression_loss
from rid.training.transformations import draw_transformations, transform


@dataclass(frozen=True)
class Losses:
    """One batch's losses, weighted; a term that is left out is zero.

    Attributes:
        adv_sds: a mean over photos.
        regression: a mean over pairs.
        displacement: a mean over photos, at most zero.
    """

    adv_sds: Tensor
    regression: Tensor
    displacement: Tensor


def training_losses(
    network: Callable[[Tensor, Tensor], Tensor],
    models: Sequence[FrozenDiffusion],
    batch: Batch,
    config: TrainingConfig,
    step: int,
) -> Losses:
    """Returns the terms of one batch; photos and pairs go through the network in one pass."""
    B = len(batch.image)
    budgets = torch.cat([batch.budget_levels, batch.pair_budget_levels])  # (B + P,)
    levels = network(torch.cat([batch.image, batch.pair_image]), budgets)  # (B + P, 3, S, S)
    perturbation = levels_to_signed(levels)
    adv_sds = regression = displacement = batch.image.new_zeros(())
    if B:
        clean = batch.image  # (B, 3, S, S)
        protected = (clean + perturbation[:B]).clamp(-1, 1)  # (B, 3, S, S)
        noise = StepNoise(config.seed, step, batch.positions)
        if config.transformed_share:
            drawn = draw_transformations(config, noise)
            protected = transform(protected, drawn)
            if config.displacement_weight:  # it compares the two, so that both take the same way
                clean = transform(clean, drawn)
        if config.adv_sds_weight:
            mean = config.posterior == "mean"
            adv_sds = config.adv_sds_weight * ensemble_adv_sds_loss(models, protected, noise, posterior_mean=mean)
        if config.displacement_weight:
            displacement = config.displacement_weight * displacement_loss(models, clean, protected)
    if len(batch.pair_image):
        regression = config.regression_weight * regression_loss(perturbation[B:], batch.pair_perturbation)
    return Losses(adv_sds, regression, displacement)

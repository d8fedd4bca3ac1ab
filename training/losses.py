"""The loss of a defender: L_AdvSDS + lambda L_reg (paper, eq. 9 and 10), and optionally displacements of latents.

B photos, P pairs, S working resolution; without an Adv-SDS term batches hold no photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rid.models.budget import levels_to_signed
from rid.models.convolutional import ConvolutionalSize, strength
from rid.models.frozen_diffusion import FrozenDiffusion
from rid.models.networks import SIZES
from rid.training.adv_sds import ensemble_adv_sds_loss
from rid.training.batches import Batch
from rid.training.config import TrainingConfig
from rid.training.displacement import displacement_loss
from rid.training.noise import StepNoise
from rid.training.regression import regression_loss
from rid.training.space_displacement import SpaceTarget, effort, shared_part, space_displacement_loss
from rid.training.transformations import draw_transformations, transform
from rid.training.views import draw_view, resized


@dataclass(frozen=True)
class Losses:
    """One batch's losses, weighted; a term that is left out is zero.

    Attributes:
        adv_sds: a mean over photos.
        regression: a mean over pairs.
        displacement: a mean over photos, at most zero.
        spaces: displacement in latent spaces, a mean over photos, with the penalties that keep it specific to them.
    """

    adv_sds: Tensor
    regression: Tensor
    displacement: Tensor
    spaces: Tensor


def allowed_strength(config: TrainingConfig, image: Tensor) -> Tensor:
    """Returns the bound of a perturbation as a share of the budget: (B, 1, S, S), or 1 for a network without a mask."""
    size = SIZES[config.size]
    return strength(size, image) if isinstance(size, ConvolutionalSize) else image.new_ones(())


def training_losses(
    network: Callable[[Tensor, Tensor], Tensor],
    models: Sequence[FrozenDiffusion],
    batch: Batch,
    config: TrainingConfig,
    step: int,
    targets: Sequence[SpaceTarget] = (),
) -> Losses:
    """Returns the terms of one batch; photos and pairs go through the network in one pass."""
    B, side = len(batch.image), SIZES[config.size].working_resolution
    image = resized(batch.image, side).clamp(-1, 1) if config.shared_windows else batch.image  # (B, 3, S, S)
    budgets = torch.cat([batch.budget_levels, batch.pair_budget_levels])  # (B + P,)
    levels = network(torch.cat([image, batch.pair_image]), budgets)  # (B + P, 3, S, S)
    perturbation = levels_to_signed(levels)
    adv_sds = regression = displacement = spaces = image.new_zeros(())
    if B:
        clean = image  # (B, 3, S, S)
        protected = (clean + perturbation[:B]).clamp(-1, 1)  # (B, 3, S, S)
        if config.space_weight:
            view = draw_view(config, step, StepNoise(config.seed, step, batch.positions))
            spaces = config.space_weight * space_displacement_loss(targets, clean, protected, view, config)
            share = levels[:B] / batch.budget_levels.view(-1, 1, 1, 1)  # (B, 3, S, S) in [-1, 1]
            spaces = spaces + config.shared_weight * shared_part(share)
            spaces = spaces + config.effort_weight * effort(share / allowed_strength(config, clean))
        noise = StepNoise(config.seed, step, batch.positions)
        if config.transformed_share and config.uses_models:
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
    return Losses(adv_sds, regression, displacement, spaces)

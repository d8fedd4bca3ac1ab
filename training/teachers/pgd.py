"""Projected sign-gradient ascent within a budget: the core that every teacher shares.

B batch, S side, C latent channels, h and w latent sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.budget import levels_to_signed
from models.frozen_diffusion import FrozenDiffusion
from training.batches import pixels_to_signed
from training.teachers.config import TeacherConfig


@dataclass(frozen=True)
class Draw:
    """The time steps and the noise of one ascent step.

    Attributes:
        timesteps: (B,) integers.
        noise: (B, C, h, w) standard normal.
        posterior: (B, C, h, w) standard normal, for the autoencoder's posterior sample.
    """

    timesteps: Tensor
    noise: Tensor
    posterior: Tensor


Objective = Callable[[FrozenDiffusion, Tensor, Draw], Tensor]


class PhotoNoise:
    """One generator a photo, seeded by its pixels: a photo's noise does not depend on its neighbours."""

    def __init__(self, pixels: NDArray[np.uint8], seed: int) -> None:
        self._generators = []
        for photo in pixels:
            digest = hashlib.sha256(seed.to_bytes(8, "little", signed=True) + photo.tobytes()).digest()
            self._generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))

    def draw(self, model: FrozenDiffusion, shape: torch.Size) -> Draw:
        """Draws for latents of `shape`, (B, C, h, w)."""
        one = shape[1:]
        timesteps = [torch.randint(len(model.schedule.abar), (1,), generator=g) for g in self._generators]
        noise = [torch.randn(one, generator=g) for g in self._generators]
        posterior = [torch.randn(one, generator=g) for g in self._generators]
        device = model.device
        return Draw(torch.cat(timesteps).to(device), torch.stack(noise).to(device), torch.stack(posterior).to(device))


def precompute_perturbations(
    pixels: NDArray[np.uint8],
    objective: Objective,
    models: Sequence[FrozenDiffusion],
    config: TeacherConfig,
    *,
    on_step: Callable[[int], None] | None = None,
) -> NDArray[np.int8]:
    """Maximises the mean objective of the models over a perturbation of each photo.

    Args:
        pixels: (B, S, S, 3) uint8 photos.
        objective: maps a model, images (B, 3, S, S) in [-1, 1] at its resolution and a draw to a scalar.
        models: one or more frozen models.
        config: the teacher.
        on_step: called with the number of finished steps.

    Returns:
        (B, S, S, 3) int8 perturbations in 8-bit levels. After adding them to `pixels` no value leaves 0..255, and
        none moves by more than the budget.
    """
    image = pixels_to_signed(pixels).to(models[0].device)  # (B, 3, S, S)
    levels = (image + 1) * 127.5  # (B, 3, S, S)
    noise = PhotoNoise(pixels, config.seed)
    delta = torch.zeros_like(image)  # (B, 3, S, S), in levels
    running = torch.zeros_like(image)
    for step in range(config.steps):
        gradient = _gradient(image, delta, objective, models, noise)  # (B, 3, S, S)
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-20)  # (B, 1, 1, 1)
        running = config.momentum * running + gradient / scale
        delta = project(delta + config.step_levels * running.sign(), levels, config.budget_levels)
        if on_step:
            on_step(step + 1)
    rounded = project(delta.round(), levels.round(), config.budget_levels)
    return rounded.permute(0, 2, 3, 1).cpu().numpy().astype(np.int8)


def project(delta: Tensor, levels: Tensor, budget_levels: int) -> Tensor:
    """Clips to the budget, and so that `levels + delta` stays within 0..255; all in 8-bit levels."""
    bounded = delta.clamp(-budget_levels, budget_levels)
    return (levels + bounded).clamp(0, 255) - levels


def _gradient(
    image: Tensor, delta: Tensor, objective: Objective, models: Sequence[FrozenDiffusion], noise: PhotoNoise
) -> Tensor:
    variable = delta.clone().requires_grad_(True)
    total = image.new_zeros(())
    for model in models:
        at_native = model.resize(image + levels_to_signed(variable))
        reduced = at_native.shape[-1] // latent_reduction(model)
        channels = int(model.vae.config.latent_channels)  # type: ignore[union-attr,arg-type]
        draw = noise.draw(model, torch.Size((len(image), channels, reduced, reduced)))
        total = total + objective(model, at_native, draw) / len(models)
    (gradient,) = torch.autograd.grad(total, variable)
    return gradient


def latent_reduction(model: FrozenDiffusion) -> int:
    """Returns f, by which the autoencoder reduces a side (8 for Stable Diffusion)."""
    return int(2 ** (len(model.vae.config.block_out_channels) - 1))  # type: ignore[union-attr,arg-type]

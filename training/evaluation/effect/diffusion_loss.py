"""Diffusion loss: a frozen model's error in predicting the noise on a photo, which Adv-SDS raises.

B batch, C latent channels, h and w latent sides, K draws a photo.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.batches import pixels_to_signed


def diffusion_losses(
    model: FrozenDiffusion, pixels: NDArray[np.uint8], *, draws: int = 16, seed: int = 0
) -> NDArray[np.float64]:
    """Returns each photo's diffusion loss, E_{t,n} || eps_theta(z_t, t, c) - n ||^2: (B,) means.

    The arguments are those of `diffusion_losses_by_time`.
    """
    losses: NDArray[np.float64] = diffusion_losses_by_time(model, pixels, draws=draws, seed=seed).mean(axis=0)
    return losses


@torch.no_grad()
def diffusion_losses_by_time(
    model: FrozenDiffusion, pixels: NDArray[np.uint8], *, draws: int = 16, seed: int = 0
) -> NDArray[np.float64]:
    """Returns each photo's diffusion loss at low to high time steps, a mean over elements.

    Time steps are stratified over 0..T-1. Time steps and noise depend on the seed and on the photo's place alone, so
    that two versions of the same photos are compared under the same noise.

    Args:
        model: a frozen model.
        pixels: (B, S, S, 3) uint8 photos.
        draws: K time steps a photo.
        seed: of time steps and noise; use one that no training used.

    Returns:
        (K, B) losses; row k has time steps from the k-th of K equal shares.
    """
    losses = np.zeros((draws, len(pixels)))
    for start in range(0, len(pixels), 16):
        image = model.resize(pixels_to_signed(pixels[start : start + 16]).to(model.device))
        latents = model.encode(image)  # (B, C, h, w)
        for draw in range(draws):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + start * 1009 + draw)
            timesteps = _stratified(len(model.schedule.abar), draw, draws, len(latents), generator)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            noisy = model.schedule.add_noise(latents, noise, timesteps.to(latents.device))
            error = (model.predict_noise(noisy, timesteps.to(latents.device)) - noise).square()
            losses[draw, start : start + 16] = error.mean(dim=(1, 2, 3)).double().cpu().numpy()
    return losses


def _stratified(steps: int, draw: int, draws: int, count: int, generator: torch.Generator) -> Tensor:
    """Returns (count,) time steps, each uniform in the draw's share of 0..T-1."""
    position = (draw + torch.rand(count, generator=generator)) / draws
    return (position * steps).long().clamp(max=steps - 1)

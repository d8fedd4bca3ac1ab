"""Adv-SDS: score distillation with its sign flipped (paper, eq. 9).

    L = E_{t,n} || z_t - sg( z_t + w(t) (eps_theta(z_t, t, c) - n) ) ||^2,   w(t) = 1 - abar_t

Descending it moves the protected image away from what the diffusion model believes. The target is detached, so no
gradient flows through the U-Net; it reaches the defender only through z_t, the encoder and the perturbation.

B batch, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.frozen_diffusion import FrozenDiffusion


def adv_sds_weight(abar: Tensor) -> Tensor:
    """w(t) = 1 - abar_t."""
    return 1 - abar


def adv_sds_target(noisy: Tensor, predicted: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """sg( z_t + w(t) (eps_theta - n) ); all (B, C, h, w), `weight` (B, 1, 1, 1)."""
    return (noisy + weight * (predicted - noise)).detach()


def adv_sds_loss(model: FrozenDiffusion, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """Returns the loss of one frozen model, a mean over all elements.

    Args:
        model: the frozen text-to-image model.
        latents: (B, C, h, w) scaled latents of the protected image, with their gradient.
        timesteps: (B,) integers.
        noise: (B, C, h, w) standard normal.
    """
    noisy = model.schedule.add_noise(latents, noise, timesteps)  # (B, C, h, w)
    with torch.no_grad():
        predicted = model.predict_noise(noisy, timesteps).to(noisy.dtype)  # (B, C, h, w)
        weight = adv_sds_weight(model.schedule.at(timesteps)).to(noisy.dtype)  # (B, 1, 1, 1)
    return F.mse_loss(noisy, adv_sds_target(noisy, predicted, noise, weight))


def ensemble_adv_sds_loss(models: Sequence[FrozenDiffusion], image: Tensor, generator: torch.Generator) -> Tensor:
    """RID-Ensemble: the mean of the losses of N frozen models, each at its own native resolution.

    Models that share an autoencoder and a resolution share its encoding of the image.

    Args:
        models: one or more frozen models.
        image: (B, 3, H, W) protected image in [-1, 1], with its gradient.
        generator: draws posterior samples, time steps and noise; its device is used for drawing.
    """
    latents: dict[tuple[str, int], Tensor] = {}
    losses = []
    for model in models:
        shared = (model.vae_digest, model.native_resolution)
        if shared not in latents:
            latents[shared] = model.encode(model.resize(image), generator)  # (B, C, h, w)
        z = latents[shared]
        timesteps = draw_timesteps(model, len(z), generator).to(z.device)  # (B,)
        noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z)
        losses.append(adv_sds_loss(model, z, timesteps, noise))
    return torch.stack(losses).mean()


def draw_timesteps(model: FrozenDiffusion, count: int, generator: torch.Generator) -> Tensor:
    """Returns (count,) time steps, uniform over 0..T-1."""
    return torch.randint(len(model.schedule.abar), (count,), generator=generator, device=generator.device)

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

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.noise import StepNoise


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


def ensemble_adv_sds_loss(
    models: Sequence[FrozenDiffusion], image: Tensor, noise: StepNoise, *, posterior_mean: bool = False
) -> Tensor:
    """RID-Ensemble: the mean of the losses of N frozen models, each at its own native resolution.

    Models whose autoencoder and resolution are equal share one encoding of the image, and with it the posterior sample;
    time steps and noise are each model's own.

    Args:
        models: one or more frozen models, of any mixture of prediction types, latent channels and resolutions.
        image: (B, 3, H, W) protected image in [-1, 1], with its gradient.
        noise: draws posterior samples, time steps and noise of the B photos.
        posterior_mean: takes the posterior's mean for z instead of a sample.
    """
    encodings: dict[tuple[str, int, torch.dtype], Tensor] = {}
    losses = []
    for model in models:
        if model.encoding_key not in encodings:
            encodings[model.encoding_key] = _encode(model, image, noise, posterior_mean)
        z = encodings[model.encoding_key]  # (B, C, h, w)
        timesteps = noise.integers(0, len(model.schedule.abar)).to(z.device)  # (B,)
        losses.append(adv_sds_loss(model, z, timesteps, noise.normal(model.latent_shape).to(z)))
    return torch.stack(losses).mean()


def _encode(model: FrozenDiffusion, image: Tensor, noise: StepNoise, posterior_mean: bool) -> Tensor:
    """Returns z as (B, C, h, w) in float32, since z_t at small t is lost in bfloat16."""
    resized = model.resize(image)  # (B, 3, native, native)
    if posterior_mean:
        return model.encode(resized).float()
    return model.encode_with(resized, noise.normal(model.latent_shape).to(image.device)).float()

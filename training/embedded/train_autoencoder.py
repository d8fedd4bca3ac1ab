"""Trains the embedded model's autoencoder.

The loss is L1 on pixels and on their horizontal and vertical differences (which keeps edges sharp without a
perceptual network), plus a light KL term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.training.batches import pixels_to_signed
from rid.training.config import Precision
from rid.training.devices import autocast

KL_WEIGHT = 1e-6
HELD_OUT = 256
Log = Callable[[dict[str, Any]], None]


def reconstruction_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of pixels and of their first differences; both (B, 3, H, W) in [-1, 1]."""
    error = reconstruction - target  # (B, 3, H, W)
    vertical = error[:, :, 1:] - error[:, :, :-1]  # (B, 3, H-1, W)
    horizontal = error[:, :, :, 1:] - error[:, :, :, :-1]  # (B, 3, H, W-1)
    return error.abs().mean() + 0.5 * (vertical.abs().mean() + horizontal.abs().mean())


def train_autoencoder(
    vae: Any,
    pixels: NDArray[np.uint8],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    precision: Precision = "auto",
    decoder_only: bool = False,
    on_step: Log,
) -> None:
    """Trains in place on (N, H, W, 3) photos, half of them mirrored, and sets the scaling factor of the latents.

    Args:
        vae: the autoencoder.
        pixels: (N, H, W, 3) photos.
        steps: optimiser steps.
        batch: photos a step.
        learning_rate: of AdamW, after 100 steps of warm-up; it decays linearly.
        seed: of every draw.
        precision: "auto" is bfloat16 autocast where the hardware multiplies it; weights stay float32.
        decoder_only: leaves the encoder and the scaling factor as they are, so that what was trained on the latents
            (denoisers, defenders) stays valid.
        on_step: called with each step's record.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    vae.train().to(memory_format=torch.channels_last)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)
    trainable = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * max(0.02, 1 - step / steps)
        chosen = pixels[random.integers(0, len(pixels), batch)]  # (B, H, W, 3)
        mirrored = random.random(batch) < 0.5
        chosen[mirrored] = chosen[mirrored][:, :, ::-1]
        photos = pixels_to_signed(chosen)  # (B, 3, H, W)
        with autocast(precision, photos.device):
            posterior = vae.encode(photos.contiguous(memory_format=torch.channels_last)).latent_dist
            decoded = vae.decode(posterior.mean if decoder_only else posterior.sample()).sample  # (B, 3, H, W)
        loss = reconstruction_loss(decoded.float(), photos)
        if not decoder_only:
            loss = loss + KL_WEIGHT * posterior.kl().float().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        on_step({"step": step + 1, "steps": steps, "loss": loss.item()})
    if not decoder_only:
        vae.register_to_config(scaling_factor=latent_scale(vae, pixels))


@torch.no_grad()
def held_out_psnr(vae: Any, pixels: NDArray[np.uint8]) -> float:
    """Mean PSNR in dB of the decoded posterior mean of (N, H, W, 3) photos."""
    psnr = []
    for start in range(0, len(pixels), 32):
        target = pixels_to_signed(pixels[start : start + 32])
        levels = 127.5 * (vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1) - target)
        psnr.append(10 * torch.log10(255**2 / levels.square().mean(dim=(1, 2, 3))))
    return float(torch.cat(psnr).mean())


@torch.no_grad()
def latent_scale(vae: Any, pixels: NDArray[np.uint8]) -> float:
    """One over the standard deviation of the latents, so that scaled latents have unit variance."""
    return float(1.0 / vae.encode(pixels_to_signed(pixels[:512])).latent_dist.mean.std())

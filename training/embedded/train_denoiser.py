"""Trains the embedded model's text-conditioned denoiser, and with it the text encoder.

The latents of every photo are computed once.

B batch, C latent channels, h and w latent sides, L prompt length, E text width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rid.training.batches import pixels_to_signed
from rid.training.config import Precision
from rid.training.devices import autocast
from rid.training.embedded.architecture import (
    PROMPT_LENGTH,
    save_pipeline,
)
from rid.training.embedded.faces import CaptionedFaces

CAPTION_DROPOUT = 0.15
EMA_DECAY = 0.999
HELD_OUT = 256
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TextToImage:
    """The parts that a denoiser's training touches.

    Attributes:
        vae: frozen autoencoder.
        unet: the denoiser.
        text_encoder: trained with it, or frozen.
        tokenizer: turns captions into token ids.
        scheduler: the noise schedule and the prediction type.
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def save(self, folder: Path) -> None:
        """Writes the pipeline folder in float16."""
        halves = {name: copy.deepcopy(getattr(self, name)).half() for name in ("vae", "unet", "text_encoder")}
        save_pipeline(folder, **halves, tokenizer=self.tokenizer, scheduler=self.scheduler)


@torch.no_grad()
def encode_latents(vae: Any, pixels: NDArray[np.uint8]) -> Tensor:
    """Returns scaled latent means of (N, H, W, 3) photos and of their mirror images, (2, N, C, h, w)."""
    sides = []
    for mirrored in (False, True):
        parts = []
        for start in range(0, len(pixels), 64):
            chosen = pixels[start : start + 64]
            photos = pixels_to_signed(chosen[:, :, ::-1] if mirrored else chosen)
            parts.append(vae.encode(photos).latent_dist.mean * vae.config.scaling_factor)  # (B, C, h, w)
        sides.append(torch.cat(parts))  # (N, C, h, w)
    return torch.stack(sides)  # (2, N, C, h, w)


def tokenize(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Returns (N, L) token ids, padded."""
    encoded = tokenizer(prompts, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def denoising_target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Returns the U-Net's target: the noise, or the velocity if the scheduler predicts that."""
    if scheduler.config.prediction_type == "v_prediction":
        return torch.as_tensor(scheduler.get_velocity(latents, noise, timesteps))
    return noise


def train_denoiser(
    model: TextToImage,
    faces: CaptionedFaces,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    precision: Precision = "auto",
    on_step: Callable[[dict[str, Any], TextToImage], None],
) -> TextToImage:
    """Trains U-Net and text encoder in place and returns the model with their averaged weights.

    Args:
        model: its text encoder is trained where its parameters require gradients.
        faces: (N, H, W, 3) photos with captions; a share of captions is dropped for classifier-free guidance.
        steps: optimiser steps.
        batch: photos a step.
        learning_rate: of AdamW, after 200 steps of warm-up; it decays linearly.
        seed: of every draw.
        precision: "auto" is bfloat16 autocast where the hardware multiplies it; weights stay float32.
        on_step: called with each step's record and the averaged model so far.
    """
    torch.manual_seed(seed)
    latents = encode_latents(model.vae, faces.pixels)
    tokens, empty = tokenize(model.tokenizer, faces.captions), tokenize(model.tokenizer, [""])[0]
    modules = nn.ModuleList([model.unet, model.text_encoder])
    average = copy.deepcopy(modules).requires_grad_(False)
    averaged = TextToImage(model.vae, average[0], average[1], model.tokenizer, model.scheduler)
    trainable = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=1e-2)
    mean_loss = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 200) * max(0.05, 1 - step / steps)
        index = torch.randint(0, latents.shape[1], (batch,))
        z = latents[torch.randint(0, 2, (batch,)), index]  # (B, C, h, w)
        ids = torch.where(torch.rand(batch, 1) < CAPTION_DROPOUT, empty, tokens[index])  # (B, L)
        noise, timesteps = torch.randn_like(z), torch.randint(0, model.scheduler.config.num_train_timesteps, (batch,))
        noisy = model.scheduler.add_noise(z, noise, timesteps)  # (B, C, h, w)
        with autocast(precision, z.device):
            states = model.text_encoder(ids).last_hidden_state  # (B, L, E)
            prediction = model.unet(noisy, timesteps, encoder_hidden_states=states).sample  # (B, C, h, w)
        loss = F.mse_loss(prediction.float(), denoising_target(model.scheduler, z, noise, timesteps))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        _update_average(average, modules, step)
        mean_loss = loss.item() if step == 0 else 0.99 * mean_loss + 0.01 * loss.item()
        on_step({"step": step + 1, "steps": steps, "loss": mean_loss}, averaged)
    return averaged


@torch.no_grad()
def _update_average(average: nn.Module, current: nn.Module, step: int) -> None:
    """Moves the moving average towards the current weights; it is short at first, then EMA_DECAY."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), current.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)

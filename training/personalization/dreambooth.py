"""DreamBooth (Ruiz et al. 2023): fine-tunes U-Net and text encoder on a person's photos, keeping its idea of people.

Prior preservation: as many images that the model drew of the class prompt are trained on beside the photos.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.training.devices import autocast
from rid.training.personalization.config import PersonalizationConfig
from rid.training.personalization.pipeline import TextToImage
from rid.training.personalization.schedule import learning_rate_factor

WEIGHT_DECAY = 1e-2
GRADIENT_CLIP = 1.0


def dreambooth(
    model: TextToImage,
    photos: NDArray[np.uint8],
    class_images: NDArray[np.uint8],
    config: PersonalizationConfig,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TextToImage:
    """Returns a personalised copy; `model` stays as it is.

    Args:
        model: what is personalised.
        photos: (N, S, S, 3) photos of the person at the model's resolution.
        class_images: (M, S, S, 3) images that the model drew of the class prompt; none leaves the prior out.
        config: the attack.
        on_step: called with each finished step and its loss.
    """
    personal = model.fresh_copy()
    trainable = [
        *personal.unet.requires_grad_(True).parameters(),
        *personal.text_encoder.requires_grad_(True).parameters(),
    ]
    personal.unet.train()
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    latents, prior = personal.encode(photos), personal.encode(class_images) if len(class_images) else None
    person, people = personal.token_ids([config.prompt]), personal.token_ids([config.class_prompt])  # (1, L)
    for step in range(config.steps):
        optimiser.param_groups[0]["lr"] = config.learning_rate * learning_rate_factor(step, config.steps)
        chosen = turns(latents, config.batch, generator)  # (B, C, h, w)
        with autocast(config.precision, personal.device):
            states = personal.states(person).expand(len(chosen), -1, -1)  # (B, L, E)
            loss = personal.denoising_loss(chosen, states, generator)
        if prior is not None and config.prior_weight:
            kept = turns(prior, config.prior_batch, generator)  # (B, C, h, w)
            with autocast(config.precision, personal.device):
                states = personal.states(people).expand(len(kept), -1, -1)  # (B, L, E)
                loss = loss + config.prior_weight * personal.denoising_loss(kept, states, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable, GRADIENT_CLIP)
        optimiser.step()
        on_step(step + 1, loss.item())
    personal.unet.requires_grad_(False).eval()
    personal.text_encoder.requires_grad_(False)
    return personal


def turns(latents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns (count, C, h, w) latents drawn without repetition as far as there are enough."""
    rounds = [torch.randperm(len(latents), generator=generator) for _ in range(-(-count // len(latents)))]
    return latents[torch.cat(rounds)[:count].to(latents.device)]

"""Textual inversion (Gal et al. 2023), alone or with low-rank weights of the U-Net (Hu et al. 2022).

Textual inversion alone trains the embedding of one new word; with LoRA the U-Net's attention learns the person too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rid.training.devices import autocast
from rid.training.personalization.config import PersonalizationConfig
from rid.training.personalization.dreambooth import GRADIENT_CLIP, WEIGHT_DECAY, turns
from rid.training.personalization.new_token import add_token
from rid.training.personalization.pipeline import TextToImage
from rid.training.personalization.schedule import learning_rate_factor

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def invert(
    model: TextToImage,
    photos: NDArray[np.uint8],
    config: PersonalizationConfig,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TextToImage:
    """Returns a personalised copy; `model` stays as it is.

    Args:
        model: what is personalised.
        photos: (N, S, S, 3) photos of the person at the model's resolution.
        config: the attack; its method decides whether low-rank weights are trained too.
        on_step: called with each finished step and its loss.
    """
    torch.manual_seed(config.seed)  # of fresh low-rank weights
    personal = model.fresh_copy()
    token = add_token(personal, config.token, config.initial_word)
    groups: list[dict[str, Any]] = [{"params": [token.table], "lr": config.token_learning_rate, "weight_decay": 0.0}]
    if config.method == "lora_textual_inversion":
        low_rank = _add_low_rank(personal.unet, config.rank)
        groups.append({"params": low_rank, "lr": config.learning_rate, "weight_decay": WEIGHT_DECAY})
    trained = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups)
    highest = [group["lr"] for group in groups]
    generator = torch.Generator().manual_seed(config.seed)
    latents = personal.encode(photos)  # (N, C, h, w)
    ids = personal.token_ids([config.prompt])  # (1, L)
    for step in range(config.steps):
        for group, rate in zip(optimiser.param_groups, highest, strict=True):
            group["lr"] = rate * learning_rate_factor(step, config.steps)
        chosen = turns(latents, config.batch, generator)  # (B, C, h, w)
        with autocast(config.precision, personal.device):
            states = personal.states(ids).expand(len(chosen), -1, -1)  # (B, L, E)
            loss = personal.denoising_loss(chosen, states, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, GRADIENT_CLIP)
        optimiser.step()
        token.restore_others()
        on_step(step + 1, loss.item())
    for parameter in trained:
        parameter.requires_grad_(False)
    return personal


def _add_low_rank(unet: Any, rank: int) -> list[Any]:
    """Adds low-rank weights to the attention of a U-Net and returns them."""
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ATTENTION), init_lora_weights="gaussian"))
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]

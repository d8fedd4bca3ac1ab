"""SDS ascent: the score-distillation gradient, w(t) (eps_theta - n), without the U-Net's Jacobian.

Xue et al., "Toward effective protection against diffusion-based mimicry through score distillation" (ICLR 2024),
with the ascending sign, SDS(+), which is the direction of Adv-SDS. Half the time and memory of AdvDM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.frozen_diffusion import FrozenDiffusion
from training.adv_sds import adv_sds_weight
from training.teachers.pgd import Draw


def sds_objective(model: FrozenDiffusion, image: Tensor, draw: Draw) -> Tensor:
    """Returns a scalar whose gradient in z_t is w(t) (eps_theta - n), the SDS gradient."""
    latents = model.encode_with(image, draw.posterior)  # (B, C, h, w)
    noisy = model.schedule.add_noise(latents, draw.noise, draw.timesteps)  # (B, C, h, w)
    with torch.no_grad():
        predicted = model.predict_noise(noisy, draw.timesteps)  # (B, C, h, w)
        weight = adv_sds_weight(model.schedule.at(draw.timesteps)).to(noisy.dtype)  # (B, 1, 1, 1)
        score = weight * (predicted - draw.noise)  # (B, C, h, w)
    return (noisy * score).sum()

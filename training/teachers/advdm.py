"""AdvDM: maximise || eps_theta(z_t, t, c) - n ||^2, with the gradient through the U-Net.

Liang et al., "Adversarial Example Does Good" (ICML 2023). RID's own pairs are this with momentum.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.frozen_diffusion import FrozenDiffusion
from training.teachers.pgd import Draw


def advdm_objective(model: FrozenDiffusion, image: Tensor, draw: Draw) -> Tensor:
    """Returns the diffusion loss, summed over (B, 3, H, W) images so that each photo has its own gradient."""
    latents = model.encode_with(image, draw.posterior)  # (B, C, h, w)
    noisy = model.schedule.add_noise(latents, draw.noise, draw.timesteps)  # (B, C, h, w)
    predicted = model.predict_noise(noisy, draw.timesteps)  # (B, C, h, w)
    return F.mse_loss(predicted, draw.noise) * len(image)

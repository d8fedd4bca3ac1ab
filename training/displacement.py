"""Latent displacement: moves the protected image's latents away from the photo's own.

    L = -E || s (E(x') - E(x)) ||^2

The feed-forward form of the encoder attack (Salman et al. 2023); the U-Net is not used. Where the perturbation is zero
so is its gradient: start from a trained defender, or add a regression.

B batch, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion


def displacement_loss(models: Sequence[FrozenDiffusion], image: Tensor, protected: Tensor) -> Tensor:
    """Returns minus the mean squared distance of posterior means, a mean over elements and over different encoders.

    Args:
        models: one or more frozen models; those that share an encoding count once.
        image: (B, 3, H, W) photos in [-1, 1].
        protected: (B, 3, H, W) the same, protected, with its gradient.
    """
    encoders = {model.encoding_key: model for model in models}
    distances = []
    for model in encoders.values():
        with torch.no_grad():
            clean = model.encode(model.resize(image)).float()  # (B, C, h, w)
        moved = model.encode(model.resize(protected)).float()  # (B, C, h, w)
        distances.append((moved - clean).square().mean())
    return -torch.stack(distances).mean()

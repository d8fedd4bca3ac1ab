"""Gaussian blur of its own strength for each photo of a batch, differentiable.

B batch, S side, R blur radius.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def blur(image: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blurs (B, 3, S, S) images by Gaussians of (B,) standard deviations in pixels, at most `largest`."""
    radius = math.ceil(3 * largest)
    if radius == 0:
        return image
    B, channels, S, _ = image.shape
    place = torch.arange(-radius, radius + 1, dtype=torch.float32)  # (2R + 1,)
    kernel = torch.exp(-(place**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))  # (B, 2R + 1)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(image)
    weights = kernel.repeat_interleave(channels, dim=0)  # (3B, 2R + 1)
    planes = F.pad(image, (radius,) * 4, mode="replicate").reshape(1, B * channels, S + 2 * radius, S + 2 * radius)
    planes = F.conv2d(planes, weights[:, None, None, :], groups=B * channels)
    planes = F.conv2d(planes, weights[:, None, :, None], groups=B * channels)  # (1, 3B, S, S)
    return planes.reshape(image.shape)

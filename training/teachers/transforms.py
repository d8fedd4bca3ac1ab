"""Random differentiable treatments of a photo before an attacker trains on it, as MetaCloak expects.

A mirror, a rotation and a crop in one resampling, then a blur, then JPEG.

B batch, S side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rid.training.differentiable_blur import blur
from rid.training.differentiable_jpeg import jpeg_round_trip
from rid.training.noise import StepNoise
from rid.training.teachers.options import MetaCloakOptions


def random_transform(image: Tensor, options: MetaCloakOptions, noise: StepNoise) -> Tensor:
    """Returns (B, 3, S, S) images in [-1, 1], each transformed by its own draws."""
    mirrored = noise.uniform() < 0.5
    angle = math.radians(options.rotation) * (2 * noise.uniform() - 1)
    kept = 1 - (1 - options.crop) * noise.uniform()
    across, down = (1 - kept) * (2 * noise.uniform() - 1), (1 - kept) * (2 * noise.uniform() - 1)
    sigma = options.blur * noise.uniform()
    quality = noise.integers(options.jpeg_quality, 101)
    moved = resample(image, mirrored, angle, kept, torch.stack([across, down], dim=1))
    return jpeg_round_trip(blur(moved, sigma, options.blur), quality)


def resample(image: Tensor, mirrored: Tensor, angle: Tensor, kept: Tensor, centre: Tensor) -> Tensor:
    """Mirrors, rotates and crops; what lies outside is reflected.

    Args:
        image: (B, 3, S, S).
        mirrored: (B,) bool.
        angle: (B,) radians.
        kept: (B,) share of the side that fills the result.
        centre: (B, 2) of the crop, x and y in [-1, 1].
    """
    cos, sin = kept * angle.cos(), kept * angle.sin()
    flip = torch.where(mirrored, -1.0, 1.0)
    rows = [torch.stack([flip * cos, -sin, centre[:, 0]], dim=1), torch.stack([flip * sin, cos, centre[:, 1]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(image), list(image.shape), align_corners=False)  # (B, S, S, 2)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

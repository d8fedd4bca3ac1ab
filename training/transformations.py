"""Expectation over transformations: what a platform does to a photo before an attacker gets it, differentiably.

A share of the photos of a step is shrunk and JPEG-coded between the protected image and the encoder, so that the
defender learns perturbations that survive it.

B batch, S side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rid.training.config import TrainingConfig
from rid.training.differentiable_jpeg import MCU, jpeg_round_trip
from rid.training.noise import StepNoise
from rid.training.views import resized


@dataclass(frozen=True)
class Transformations:
    """The transformation of each photo of a batch.

    Attributes:
        transformed: (B,) bool; the others stay as they are.
        scale: (B,) factor of the side.
        quality: (B,) integer JPEG quality.
    """

    transformed: Tensor
    scale: Tensor
    quality: Tensor


def draw_transformations(config: TrainingConfig, noise: StepNoise) -> Transformations:
    """Draws what happens to each photo of a step."""
    return Transformations(
        transformed=noise.uniform() < config.transformed_share,
        scale=config.resize_min + (1 - config.resize_min) * noise.uniform(),
        quality=noise.integers(config.jpeg_quality_min, config.jpeg_quality_max + 1),
    )


def transform(image: Tensor, drawn: Transformations) -> Tensor:
    """Returns (B, 3, S, S) images in [-1, 1] after shrinking, coding at the small size, and enlarging again."""
    with torch.autocast(image.device.type, enabled=False):  # coding needs more than eight bits
        return torch.stack(
            [
                _shrunk_and_coded(photo, float(drawn.scale[i]), drawn.quality[i]) if drawn.transformed[i] else photo
                for i, photo in enumerate(image.float())
            ]
        )


def _shrunk_and_coded(photo: Tensor, scale: float, quality: Tensor) -> Tensor:
    """One (3, S, S) photo; its small side is at least one coding unit."""
    side = photo.shape[-1]
    small = resized(photo[None], max(min(MCU, side), round(scale * side))).clamp(-1, 1)  # (1, 3, s, s)
    return resized(jpeg_round_trip(small, quality[None]), side)[0].clamp(-1, 1)

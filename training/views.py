"""The attacker's view of protected photos: a part, resized, mirrored, blurred and JPEG-coded, differentiably.

All photos of a step are seen at one place and scale, and clean and protected ones with equal draws: what differs
between their latents is the perturbation.

B batch, S side of the square, V side of the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rid.models.networks import SIZES
from rid.training.config import TrainingConfig
from rid.training.differentiable_blur import blur
from rid.training.differentiable_jpeg import jpeg_round_trip
from rid.training.noise import StepNoise

STEP_POSITION = 2**31  # no photo of a batch stands there: what a step draws once
LEAST_BLUR, LARGEST_BLUR = 0.3, 1.0  # pixels


@dataclass(frozen=True)
class View:
    """One view of the photos of a step, as an attacker may see them.

    Attributes:
        top: first row of the part that is seen.
        left: its first column.
        side: its side.
        mirrored: whether it is mirrored.
        coded: (B,) bool, the photos that are JPEG-coded.
        quality: (B,) integer JPEG quality.
        blur: (B,) standard deviation of the blur, in pixels of the view; 0 for photos that are not blurred.
    """

    top: int
    left: int
    side: int
    mirrored: bool
    coded: Tensor
    quality: Tensor
    blur: Tensor


def draw_view(config: TrainingConfig, step: int, noise: StepNoise) -> View:
    """Draws a step's view: the part from the step alone, coding and blur for each photo.

    A share of the steps sees a part as it is; half of the others enlarge it, half shrink it, each octave as likely.
    """
    side, largest = config.view_side, _working_resolution(config)
    own = StepNoise(config.seed, step, [STEP_POSITION])
    plain, enlarged, scale, top, left, mirrored = (float(own.uniform()) for _ in range(6))
    if plain >= config.view_plain_share:
        factor = config.view_enlarged if enlarged < 0.5 else side / largest
        side = min(largest, max(8, round(side / factor**scale)))
    coded = noise.uniform() < config.transformed_share
    quality = noise.integers(config.jpeg_quality_min, config.jpeg_quality_max + 1)
    blurred = noise.uniform() < config.blurred_share
    return View(
        top=int(top * (largest - side + 1)),
        left=int(left * (largest - side + 1)),
        side=side,
        mirrored=mirrored < 0.5,
        coded=coded,
        quality=quality,
        blur=blurred * (LEAST_BLUR + (LARGEST_BLUR - LEAST_BLUR) * noise.uniform()),
    )


def see(image: Tensor, view: View, view_side: int) -> Tensor:
    """Returns the (B, 3, V, V) views of (B, 3, S, S) images in [-1, 1]."""
    part = image[:, :, view.top : view.top + view.side, view.left : view.left + view.side]
    with torch.autocast(image.device.type, enabled=False):  # coding needs more than eight bits
        seen = resized(part.float(), view_side)  # (B, 3, V, V)
        seen = seen.flip(3) if view.mirrored else seen
        if bool(view.blur.any()):
            seen = blur(seen, view.blur, LARGEST_BLUR)
        if bool(view.coded.any()):
            coded = jpeg_round_trip(seen.clamp(-1, 1), view.quality)
            seen = torch.where(view.coded.to(seen.device)[:, None, None, None], coded, seen)
        return seen.clamp(-1, 1)


def resized(image: Tensor, side: int) -> Tensor:
    """Resizes (B, 3, H, H) images to (B, 3, side, side), bicubic and antialiased."""
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bicubic", antialias=True, align_corners=False)


def _working_resolution(config: TrainingConfig) -> int:
    return SIZES[config.size].working_resolution

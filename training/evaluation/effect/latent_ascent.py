"""Projected gradient ascent on displacement in several latent spaces: what optimisation reaches on each photo alone.

It is the upper row of a table of displacements, not a teacher; Madry et al. (ICLR 2018), one space a step in turn.

N photos, S side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rid.models.budget import check_budget, levels_to_signed
from rid.models.latent_space import displacement
from rid.training.batches import pixels_to_signed
from rid.training.devices import autocast
from rid.training.evaluation.effect.latent_displacement import PIXELS, Yardstick, encode_pixels

FIRST_STEP, LAST_STEP = 1 / 8, 1 / 32  # of the budget


def ascend(
    rulers: Sequence[Yardstick], pixels: NDArray[np.uint8], budget_levels: int, *, steps: int, seed: int = 0
) -> NDArray[np.int16]:
    """Returns (N, S, S, 3) perturbations in whole levels, within the budget and within 0 to 255 when added.

    Args:
        rulers: the spaces, one a step in turn, and their units.
        pixels: (N, S, S, 3) photos.
        budget_levels: in 8-bit levels.
        steps: of the ascent; their length falls from an eighth to a thirty-second of the budget.
        seed: of the start, which is uniform within half of the budget; a photo's depends on its place in `pixels`.
    """
    check_budget(budget_levels)
    batch = max(1, PIXELS // 2 // (pixels.shape[1] * pixels.shape[2]))
    parts = [
        _ascend(rulers, pixels[start : start + batch], budget_levels, steps, seed + start)
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts)


def _ascend(
    rulers: Sequence[Yardstick], pixels: NDArray[np.uint8], budget: int, steps: int, seed: int
) -> NDArray[np.int16]:
    device = rulers[0].space.device
    image = pixels_to_signed(pixels).to(device)  # (B, 3, S, S)
    origins = [encode_pixels(ruler.space, pixels).to(device) for ruler in rulers]
    bound = levels_to_signed(float(budget))
    generator = torch.Generator().manual_seed(seed)
    start = (torch.rand(image.shape, generator=generator) - 0.5) * bound
    delta = (image + start.to(device)).clamp(-1, 1) - image
    for step in range(steps):
        ruler, origin = rulers[step % len(rulers)], origins[step % len(rulers)]
        delta.requires_grad_(True)
        with autocast("auto", device):
            moved = (ruler.space.encode(image + delta) - origin) / ruler.deviation
        (gradient,) = torch.autograd.grad(displacement(moved).sum(), delta)
        done = step / max(1, steps - 1)
        length = bound * (FIRST_STEP + done * (LAST_STEP - FIRST_STEP))
        with torch.no_grad():
            delta = (delta + length * gradient.sign()).clamp(-bound, bound)
            delta = (image + delta).clamp(-1, 1) - image
    levels = (delta.detach() * 127.5).round().permute(0, 2, 3, 1).cpu().numpy().astype(np.int16)
    return np.clip(levels, -budget, budget)

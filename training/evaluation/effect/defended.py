"""Perturbations of squares at a defender's working resolution, without windows, files or formats.

B photos, S working resolution.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rid.models.networks import Network
from rid.training.batches import pixels_to_signed


@torch.no_grad()
def perturb_squares(defender: Network, pixels: NDArray[np.uint8], budget_levels: int) -> NDArray[np.int16]:
    """Returns the (B, S, S, 3) change in levels that is left after rounding, adding and clipping.

    Args:
        defender: the network.
        pixels: (B, S, S, 3) photos.
        budget_levels: in 8-bit levels.
    """
    device = next(defender.parameters()).device
    budgets = torch.full((len(pixels),), float(budget_levels), device=device)
    levels = defender(pixels_to_signed(pixels).to(device), budgets)  # (B, 3, S, S)
    wanted = levels.round().permute(0, 2, 3, 1).cpu().numpy().astype(np.int16)  # (B, S, S, 3)
    kept: NDArray[np.int16] = np.clip(pixels + wanted, 0, 255).astype(np.int16) - pixels
    return kept

"""Displacement of photos in latent spaces, in units of channel variance.

N photos, S side, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.latent_space import LatentSpace, displacement
from rid.training.batches import pixels_to_signed
from rid.training.devices import autocast

PIXELS = 8 * 256**2  # that are encoded at a time
MIN_DEVIATION = 1e-6


@dataclass(frozen=True)
class Yardstick:
    """A latent space and the unit in which shifts are measured in it.

    Attributes:
        space: the frozen encoder.
        deviation: (C, 1, 1) standard deviation of each channel over clean photos.
    """

    space: LatentSpace
    deviation: Tensor

    @property
    def name(self) -> str:
        """The space's."""
        return self.space.name

    def displacements(self, origin: Tensor, changed: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns each photo's mean squared shift, (N,), in units of channel variance.

        Args:
            origin: (N, C, h, w) latents of the clean photos, from `encode_pixels`.
            changed: (N, S, S, 3) the same photos, changed.
        """
        moved = (encode_pixels(self.space, changed) - origin) / self.deviation.cpu()
        return displacement(moved).double().numpy()


@torch.no_grad()
def encode_pixels(space: LatentSpace, pixels: NDArray[np.uint8]) -> Tensor:
    """Returns the (N, C, h, w) float32 latents of (N, S, S, 3) photos, on the CPU, a few photos at a time.

    Products are bfloat16 where the hardware has them.
    """
    batch = max(1, PIXELS // (pixels.shape[1] * pixels.shape[2]))
    parts = []
    for start in range(0, len(pixels), batch):
        image = pixels_to_signed(pixels[start : start + batch]).to(space.device)  # (B, 3, S, S)
        with autocast("auto", space.device):
            parts.append(space.encode(image).float().cpu())
    return torch.cat(parts)


def yardsticks(spaces: Sequence[LatentSpace], clean: NDArray[np.uint8]) -> list[Yardstick]:
    """Returns each space with the unit that (N, S, S, 3) clean photos give it."""
    found = []
    for space in spaces:
        latents = encode_pixels(space, clean)  # (N, C, h, w)
        deviation = latents.std(dim=(0, 2, 3)).clamp(min=MIN_DEVIATION).view(-1, 1, 1)
        found.append(Yardstick(space, deviation.to(space.device)))
    return found

"""The rise of a frozen model's diffusion loss by protection, against noise of equal norm on the same photos.

Everything is paired: the clean photo, its protected version and both controls see the same time steps and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.evaluation.effect.controls import gaussian_control, sign_control
from rid.training.evaluation.effect.diffusion_loss import diffusion_losses


@dataclass(frozen=True)
class EffectSamples:
    """Diffusion losses, photo by photo.

    Attributes:
        clean: (B,) of the photos as they came.
        protected: (B,) of the protected photos.
        gaussian: (B,) with rounded Gaussian noise whose L2 norm is that of the photo's perturbation.
        signs: (B,) with random signs of that norm.
    """

    clean: NDArray[np.float64]
    protected: NDArray[np.float64]
    gaussian: NDArray[np.float64]
    signs: NDArray[np.float64]


def protection_effect(
    model: FrozenDiffusion,
    clean: NDArray[np.uint8],
    protected: NDArray[np.uint8],
    *,
    draws: int = 8,
    seed: int = 0,
) -> EffectSamples:
    """Measures one model on photos at its own resolution.

    Args:
        model: a frozen model.
        clean: (B, S, S, 3) photos as they came.
        protected: (B, S, S, 3) the same photos, protected.
        draws: time steps a photo.
        seed: of time steps, noise and controls; use one that no training used.
    """
    moved = protected.astype(np.int16) - clean  # (B, S, S, 3)
    versions = {"clean": clean, "protected": protected}
    for name, control in (("gaussian", gaussian_control), ("signs", sign_control)):
        noise = [control(photo, wanted, seed + i) for i, (photo, wanted) in enumerate(zip(clean, moved, strict=True))]
        versions[name] = (clean + np.stack(noise)).astype(np.uint8)
    return EffectSamples(
        **{name: diffusion_losses(model, photos, draws=draws, seed=seed) for name, photos in versions.items()}
    )

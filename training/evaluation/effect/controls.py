"""Noise controls: perturbations without a method, as large as the one they are compared with.

Norms are matched after rounding and clipping, on what a file would really hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def norm(perturbation: NDArray[np.integer]) -> float:
    """Returns the L2 norm in 8-bit levels."""
    return float(np.sqrt(np.square(perturbation.astype(np.float64)).sum()))


def gaussian_control(pixels: NDArray[np.uint8], perturbation: NDArray[np.int16], seed: int) -> NDArray[np.int16]:
    """Returns rounded Gaussian noise on (H, W, 3) pixels with the norm of `perturbation`."""
    noise = np.random.default_rng(seed).standard_normal(pixels.shape)
    return _matched(pixels, noise, norm(perturbation))


def sign_control(pixels: NDArray[np.uint8], perturbation: NDArray[np.int16], seed: int) -> NDArray[np.int16]:
    """Returns random signs on (H, W, 3) pixels, dithered between two levels to the norm of `perturbation`."""
    random = np.random.default_rng(seed)
    signs = random.choice(np.array([-1.0, 1.0]), pixels.shape)
    size = norm(perturbation) / np.sqrt(pixels.size)
    low = np.floor(size)
    share = (size**2 - low**2) / (2 * low + 1)  # of values at low + 1, so that the mean square is size^2
    magnitude = low + (random.random(pixels.shape) < share)
    return _apply(pixels, signs * magnitude)


def _matched(pixels: NDArray[np.uint8], noise: NDArray[np.float64], target: float) -> NDArray[np.int16]:
    """Scales noise by bisection until its rounded, clipped form has the target norm."""
    low, high = 0.0, 4.0 * target / np.sqrt(pixels.size) + 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if norm(_apply(pixels, middle * noise)) < target:
            low = middle
        else:
            high = middle
    return _apply(pixels, high * noise)


def _apply(pixels: NDArray[np.uint8], noise: NDArray[np.float64]) -> NDArray[np.int16]:
    levels = pixels.astype(np.int16)
    return (np.clip(levels + np.rint(noise), 0, 255) - levels).astype(np.int16)

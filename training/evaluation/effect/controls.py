"""Noise controls: perturbations without a method, as large as the one they are compared with.

Norms are matched after rounding and clipping, on what a file would really hold. Beside noise there are what anyone can
draw (stripes), what one network adds to all photos (the fixed pattern), and what it adds to another photo.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRIPE_PERIOD = 6.0  # pixels, across diagonal stripes


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


def stripes_control(pixels: NDArray[np.uint8], perturbation: NDArray[np.int16], seed: int) -> NDArray[np.int16]:
    """Returns drawn stripes on (H, W, 3) pixels: a diagonal square wave of period 6 with the norm of `perturbation`."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    wave = np.sin(2 * np.pi * (rows + columns + 0.5) / (STRIPE_PERIOD * np.sqrt(2)))
    signs = np.repeat(np.where(wave < 0, -1.0, 1.0)[..., None], 3, axis=2)
    return _matched(pixels, signs, norm(perturbation), np.random.default_rng(seed).random(pixels.shape))


def fixed_pattern_control(
    pixels: NDArray[np.uint8], perturbation: NDArray[np.int16], mean_of_others: NDArray[np.floating], seed: int
) -> NDArray[np.int16]:
    """Returns the sign of the mean of other photos' perturbations, with the norm of this photo's.

    Args:
        pixels: (H, W, 3).
        perturbation: this photo's, for its norm.
        mean_of_others: (H, W, 3); where it is zero the sign is drawn.
        seed: of the dither between two levels.
    """
    random = np.random.default_rng(seed)
    drawn = random.choice(np.array([-1.0, 1.0]), pixels.shape)
    signs = np.where(mean_of_others == 0, drawn, np.sign(mean_of_others))
    return _matched(pixels, signs, norm(perturbation), random.random(pixels.shape))


def stranger_control(
    pixels: NDArray[np.uint8], perturbation: NDArray[np.int16], strangers: NDArray[np.int16], seed: int
) -> NDArray[np.int16]:
    """Returns another photo's perturbation on (H, W, 3) pixels, scaled to the norm of this photo's, and dithered."""
    dither = np.random.default_rng(seed).random(pixels.shape)
    return _matched(pixels, strangers.astype(np.float64), norm(perturbation), dither)


def _matched(
    pixels: NDArray[np.uint8],
    noise: NDArray[np.float64],
    target: float,
    dither: NDArray[np.float64] | float = 0.5,
) -> NDArray[np.int16]:
    """Scales noise by bisection until its rounded, clipped form has the target norm.

    Values that are all of one size round together, in jumps; a dither, uniform over 0 to 1, rounds each by itself.
    """
    low, high = 0.0, (4.0 * target / np.sqrt(pixels.size) + 1.0) / max(float(np.abs(noise).mean()), 1e-9)
    for _ in range(30):
        middle = (low + high) / 2
        if norm(_apply(pixels, np.floor(middle * noise + dither))) < target:
            low = middle
        else:
            high = middle
    return _apply(pixels, np.floor(high * noise + dither))


def _apply(pixels: NDArray[np.uint8], noise: NDArray[np.float64]) -> NDArray[np.int16]:
    levels = pixels.astype(np.int16)
    return (np.clip(levels + np.rint(noise), 0, 255) - levels).astype(np.int16)

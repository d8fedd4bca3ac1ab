"""Differences of a written photo from its original: what survived of the perturbation, PSNR and SSIM.

Everything is computed from norms of differences of uint8 pictures, which OpenCV sums in integers without copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rid.models.photo_files.photos import Pixels
from rid.models.photo_files.resampling import shrink

SSIM_SIDE = 256
SSIM_WINDOW, SSIM_SIGMA = (11, 11), 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Survival:
    """The decoded difference d = written - original against the stored perturbation p = perturbed - original.

    Attributes:
        gain: <d, p> / <p, p>; 1 if all of the perturbation came through, 0 if none.
        cosine: <d, p> / (|d| |p|).
        psnr: of d, in dB; infinite if nothing changed.
    """

    gain: float
    cosine: float
    psnr: float


def measure_survival(original: Pixels, perturbed: Pixels, written: Pixels) -> Survival:
    """Compares a decoded written photo with its original and with what was given to the encoder.

    Args:
        original: (H, W) or (H, W, 3) uint8.
        perturbed: the same shape, original plus perturbation.
        written: the same shape, what the written file decodes to.
    """
    dd, pp = squared_distance(written, original), squared_distance(perturbed, original)
    dp = (dd + pp - squared_distance(written, perturbed)) / 2  # |d - p|^2 = |d|^2 + |p|^2 - 2 <d, p>
    gain = dp / pp if pp else 0.0
    cosine = dp / math.sqrt(dd * pp) if dd and pp else 0.0
    return Survival(gain, cosine, 10 * math.log10(255**2 * original.size / dd) if dd else math.inf)


def squared_distance(first: Pixels, second: Pixels) -> float:
    """Returns the sum of squared differences; exact, it is summed in integers."""
    return float(cv2.norm(first, second, cv2.NORM_L2SQR))


def largest_difference(first: Pixels, second: Pixels) -> int:
    """Returns the largest absolute difference, in levels."""
    return int(cv2.norm(first, second, cv2.NORM_INF))


def ssim(first: Pixels, second: Pixels) -> float:
    """Structural similarity (Wang et al. 2004, Gaussian windows) of the luma at short side 256.

    Args:
        first: (H, W) grey or (H, W, 3) RGB uint8.
        second: the same shape.
    """
    x, y = (_small_luma(picture) for picture in (first, second))
    mean_x, mean_y = _blur(x), _blur(y)
    squares = _blur(x * x + y * y) - (mean_x**2 + mean_y**2)
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (squares + SSIM_C2)
    return float((luminance * structure).mean())


def _small_luma(picture: Pixels) -> npt.NDArray[np.float32]:
    if min(picture.shape[:2]) > SSIM_SIDE:
        picture = shrink(picture, SSIM_SIDE)
    luma = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return luma.astype(np.float32)


def _blur(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    blurred: npt.NDArray[np.float32] = cv2.GaussianBlur(values, SSIM_WINDOW, SSIM_SIGMA)
    return blurred

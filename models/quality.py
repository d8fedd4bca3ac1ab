"""How a written photo differs from its original: what survived of the perturbation, PSNR and SSIM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.photos import Pixels

SSIM_SIDE = 256
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
BLOCK_VALUES = 2**21


@dataclass(frozen=True)
class Survival:
    """The decoded difference d against the intended one p, over all colour values.

    Attributes:
        gain: <d, p> / <p, p>; 1 if all of the perturbation came through, 0 if none.
        cosine: <d, p> / (|d| |p|).
        psnr: of d, in dB; infinite if nothing changed.
    """

    gain: float
    cosine: float
    psnr: float


def measure_survival(original: Pixels, written: Pixels, perturbation: npt.NDArray[np.int8]) -> Survival:
    """Compares a decoded written photo with its original, block by block.

    Args:
        original: (H, W) or (H, W, 3) uint8.
        written: the same shape.
        perturbation: the same shape, what was added before encoding, in levels.
    """
    rows = max(1, BLOCK_VALUES // max(1, original[0].size))
    dd = dp = pp = 0.0
    for start in range(0, len(original), rows):
        part = slice(start, start + rows)
        d = cv2.subtract(written[part], original[part], dtype=cv2.CV_32F).ravel()
        p = perturbation[part].astype(np.float32).ravel()
        dd += float(d @ d)
        dp += float(d @ p)
        pp += float(p @ p)
    gain = dp / pp if pp else 0.0
    cosine = dp / math.sqrt(dd * pp) if dd and pp else 0.0
    return Survival(gain, cosine, 10 * math.log10(255**2 * original.size / dd) if dd else math.inf)


def ssim(first: Pixels, second: Pixels) -> float:
    """Structural similarity (Wang et al. 2004, Gaussian windows) of the luma at short side 256.

    Args:
        first: (H, W) grey or (H, W, 3) RGB uint8.
        second: the same shape.
    """
    x, y = (_small_luma(picture) for picture in (first, second))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return float((luminance * structure).mean())


def _small_luma(picture: Pixels) -> npt.NDArray[np.float32]:
    scale = SSIM_SIDE / min(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    luma = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return luma.astype(np.float32)


def _blur(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return cv2.GaussianBlur(values, (11, 11), SSIM_SIGMA)

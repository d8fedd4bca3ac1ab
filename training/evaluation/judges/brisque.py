"""BRISQUE (Mittal, Moorthy and Bovik, IEEE TIP 2012): how unnatural a picture looks, with nothing to compare it with.

Clean photos are at about 0 to 30, disturbed ones higher. 36 features of the locally normalised luminance at two scales
go through a support vector regression that its authors fitted to people's scores of the LIVE pictures.
That fit is read from the installed package `brisque`; its code, which needs a compiled libsvm, is not used, and scores
agree with it. At 64 px, far below the sizes that it was fitted to, scores compare, but do not mean what they mean of
large photos.

H, W sides.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.training.evaluation.judges.brisque_fit import brisque_fit

WINDOW, SIGMA = 7, 7 / 6  # of the local mean and deviation
SMALLEST = 16  # pixels, below which the second scale has nothing to fit
SHAPES = np.arange(0.2, 10, 0.001)  # alpha of the distributions that are tried


def brisque(picture: NDArray[np.uint8]) -> float:
    """Returns the score of an (H, W, 3) picture; higher is worse.

    Raises:
        BrisqueMissing: if the package with the fit is not installed.
        ValueError: if a side is shorter than SMALLEST, or the picture has one value everywhere.
    """
    if min(picture.shape[:2]) < SMALLEST or picture.min() == picture.max():
        raise ValueError(f"BRISQUE needs a picture of at least {SMALLEST} pixels a side that is not of one colour")
    return brisque_fit().score(brisque_features(picture))


def brisque_features(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the (36,) features of an (H, W, 3) picture: 18 at each of two scales."""
    luminance = picture.astype(np.float64) @ (0.2125 / 255, 0.7154 / 255, 0.0721 / 255)  # (H, W)
    half = cv2.resize(luminance, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return np.concatenate([_scale_features(luminance), _scale_features(np.asarray(half, np.float64))])


def normalised(luminance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x - mu) / (sigma + 1/255) with the local mean mu and deviation sigma of an (H, W) picture, equation 1."""
    from scipy.signal import convolve2d

    line = np.exp(-np.square(np.arange(WINDOW) - WINDOW // 2) / (2 * SIGMA**2))
    kernel = np.outer(line, line) / line.sum() ** 2
    mean = convolve2d(luminance, kernel, "same")
    deviation = np.sqrt(np.abs(mean**2 - convolve2d(luminance**2, kernel, "same")))
    return np.asarray((luminance - mean) / (deviation + 1 / 255))


def asymmetric_fit(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Fits an asymmetric generalised Gaussian by moments: shape, mean, left and right variance, equations 9 to 14."""
    from scipy.special import gamma

    left, right = values[values < 0], values[values >= 0]
    variances = [float(np.mean(side**2)) if side.size else 0.0 for side in (left, right)]
    skew = np.sqrt(variances[0] / variances[1]) if variances[1] else 1.0
    ratio = np.abs(values).mean() ** 2 / np.mean(values**2)
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = float(SHAPES[np.argmin(np.square(_ratios() - wanted))])
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape)) * gamma(2 / shape) / gamma(1 / shape)
    return shape, float(scale * (np.sqrt(variances[1]) - np.sqrt(variances[0]))), variances[0], variances[1]


@cache
def _ratios() -> NDArray[np.float64]:
    """The ratio of moments that each of SHAPES has."""
    from scipy.special import gamma

    return np.asarray(gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES)))


def _scale_features(luminance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(18,): shape and variance of the normalised luminance, and four numbers of each product of neighbours."""
    field = normalised(luminance)
    shape, _, left, right = asymmetric_fit(field)
    neighbours = (
        field[:, :-1] * field[:, 1:],
        field[:-1] * field[1:],
        field[:-1, :-1] * field[1:, 1:],
        field[1:, :-1] * field[:-1, 1:],
    )
    return np.array([shape, (left + right) / 2, *(number for pair in neighbours for number in asymmetric_fit(pair))])

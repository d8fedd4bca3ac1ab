"""Change where people see it: what is left of it after a blur, in areas without texture, such as a sky or a cheek.

PSNR, SSIM and learned distances average over a photo and hardly see blotches of tens of pixels. Here the change is
low-passed, so that fine noise, which texture and distance hide, does not count; and it is held against the luminance
masking of Chou and Li, "A perceptually tuned subband image coder based on the measure of just-noticeable-distortion
profile" (IEEE TCSVT 5(6), 1995), eq. 3: the change of one pixel that is just seen on a background of equal luminance.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rid.models.photo_files.photos import Pixels

LARGEST_SIDE = 1024  # pixels; photos are halved until their short side is smaller, as they are on a screen
CELL = 4  # pixels, a side, over which the change is averaged
SIGMA = 1.0  # cells, of the blur after it: what is narrower than about 20 pixels is hidden
TEXTURE_CELLS = 4  # a side, over which texture is measured
SMOOTH_LEVELS = 4.0  # standard deviation of luma below which an area is smooth
BLOCKS = 8  # along the short side, of which the worst counts
AREA_FACTOR = 1 / 3  # a change of an area is seen at a third of what one pixel needs; a choice, see docs/decisions.md
JND_DARK, JND_LEAST, JND_BRIGHT, JND_MIDDLE = 17.0, 3.0, 3 / 128, 127.0  # T0, its floor, gamma, and middle grey

Plane = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SmoothChange:
    """The change of smooth areas.

    Attributes:
        worst_levels: root mean square of the low-passed change in the worst block, in 8-bit levels.
        visible_share: share of the smooth area whose low-passed change is above the threshold of visibility.
        smooth_share: share of the photo that is smooth; where it is 0 so are the others.
    """

    worst_levels: float
    visible_share: float
    smooth_share: float


def smooth_change(before: Pixels, after: Pixels) -> SmoothChange:
    """Compares a photo before and after a change.

    Args:
        before: (H, W) or (H, W, 3) uint8.
        after: the same shape.
    """
    while min(before.shape[:2]) > LARGEST_SIDE:
        before, after = _halved(before), _halved(after)
    size = tuple(max(1, side // CELL) for side in before.shape[1::-1])  # (w, h) cells
    luma = (before if before.ndim == 2 else cv2.cvtColor(before, cv2.COLOR_RGB2GRAY)).astype(np.float32)
    background = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)  # (h, w)
    smooth = _texture(luma, background) < SMOOTH_LEVELS  # (h, w)
    share = float(smooth.mean())
    if not share:
        return SmoothChange(0.0, 0.0, 0.0)
    squares = _low_passed_squares(before, after, size)  # (h, w)
    visible = squares > np.square(AREA_FACTOR * just_noticeable(background))
    return SmoothChange(_worst_block(squares, smooth), float(visible[smooth].mean()), share)


def just_noticeable(background: Plane) -> Plane:
    """Returns Chou and Li's visibility threshold of one pixel, in levels, by the luminance around it."""
    dark = JND_DARK * (1 - np.sqrt(np.minimum(background, JND_MIDDLE) / JND_MIDDLE)) + JND_LEAST
    bright = JND_BRIGHT * (background - JND_MIDDLE) + JND_LEAST
    return np.where(background <= JND_MIDDLE, dark, bright).astype(np.float32)


def _halved(picture: Pixels) -> Pixels:
    """Averages 2 x 2 pixels; an odd last row or column is left out. Rounding is far below what is measured."""
    height, width = (side // 2 for side in picture.shape[:2])
    half: Pixels = cv2.resize(picture[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return half


def _texture(luma: Plane, background: Plane) -> Plane:
    """Returns the (h, w) standard deviation of luma around each cell."""
    around = (TEXTURE_CELLS, TEXTURE_CELLS)
    squares = cv2.resize(luma * luma, background.shape[::-1], interpolation=cv2.INTER_AREA)
    mean = cv2.blur(background, around)
    variance = cv2.blur(squares, around) - mean * mean
    texture: Plane = np.sqrt(np.maximum(variance, 0))
    return texture


def _low_passed_squares(before: Pixels, after: Pixels, size: tuple[int, ...]) -> Plane:
    """Returns the (h, w) mean over channels of the square of the low-passed change."""
    change = cv2.resize(cv2.subtract(after, before, dtype=cv2.CV_32F), size, interpolation=cv2.INTER_AREA)
    low = cv2.GaussianBlur(change, (0, 0), SIGMA)
    squares: Plane = low * low if low.ndim == 2 else np.square(low).mean(axis=2)
    return squares


def _worst_block(squares: Plane, smooth: npt.NDArray[np.bool_]) -> float:
    """Returns the largest root mean square over the smooth cells of a block that is smooth for the most part."""
    edge = max(1, min(squares.shape) // BLOCKS)
    size = tuple(max(1, side // edge) for side in squares.shape[1::-1])
    weight = cv2.resize(smooth.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(np.where(smooth, squares, 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    enough = weight >= 0.5
    if not enough.any():
        return float(np.sqrt(squares[smooth].mean()))
    return float(np.sqrt((sums[enough] / weight[enough]).max()))

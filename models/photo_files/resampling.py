"""Carries pictures between their native size and the defender's squares.

H, W native sides; h, w sides after the short one became S, the working resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rid.models.photo_files.photos import Pixels

Levels = npt.NDArray[np.float32]
Perturbation = npt.NDArray[np.int8]

FIXED_POINT = 256  # int16 steps of one level; 16 levels and bicubic's overshoot stay far from its end
STRIP_VALUES = 2**17  # values that are rounded and added at a time, so that they stay in the processor's cache


def to_upright(picture: npt.NDArray, orientation: int) -> npt.NDArray:  # type: ignore[type-arg]
    """Turns a stored picture as its EXIF orientation says; a view, (H, W, ...) or (W, H, ...)."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return picture


def from_upright(picture: npt.NDArray, orientation: int) -> npt.NDArray:  # type: ignore[type-arg]
    """Undoes `to_upright`."""
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture.swapaxes(0, 1) if orientation >= 5 else picture


def shrink(picture: Pixels, side: int) -> Pixels:
    """Resizes (H, W) or (H, W, 3) so that the short side is `side`; antialiased when it gets smaller."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    if size == (width, height):
        return picture
    while min(picture.shape[:2]) >= 4 * side:  # exact halves are ten times as fast as other ratios
        picture = _halve(picture)
    resized: Pixels = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return resized


def _halve(picture: Pixels) -> Pixels:
    """Averages 2 x 2 pixels; of a picture with an odd side as nearly as keeps every place where it was."""
    height, width = picture.shape[:2]
    method = cv2.INTER_LINEAR if height % 2 or width % 2 else cv2.INTER_AREA
    half: Pixels = cv2.resize(picture, ((width + 1) // 2, (height + 1) // 2), interpolation=method)
    return half


@dataclass(frozen=True)
class Windows:
    """Overlapping squares along the long side of a picture.

    Attributes:
        side: S, of a square.
        starts: where each square begins on the long side.
        horizontal: whether the long side is the width.
    """

    side: int
    starts: tuple[int, ...]
    horizontal: bool

    def cut(self, picture: Pixels) -> Levels:
        """Returns (N, 3, S, S) float32 squares in [-1, 1] of an (h, w, 3) picture."""
        parts = [
            picture[:, start : start + self.side] if self.horizontal else picture[start : start + self.side]
            for start in self.starts
        ]
        return as_signed([np.ascontiguousarray(part) for part in parts])  # (N, 3, S, S)

    def join(self, squares: Levels, shape: tuple[int, int]) -> Levels:
        """Blends (N, 3, S, S) squares into an (h, w, 3) picture; the weights sum to one, so a bound stays a bound."""
        if len(self.starts) == 1:
            only: Levels = cv2.merge(list(squares[0]))  # (S, S, 3)
            return only
        ramp = np.minimum(np.arange(1, self.side + 1), np.arange(self.side, 0, -1)).astype(np.float32)  # (S,)
        weight = ramp[:, None] if self.horizontal else ramp[:, None, None]
        total = np.zeros((*shape, 3), np.float32)
        along = np.zeros(shape[1] if self.horizontal else shape[0], np.float32)
        for start, square in zip(self.starts, squares.transpose(0, 2, 3, 1), strict=True):  # (S, S, 3)
            stop = start + self.side
            if self.horizontal:
                total[:, start:stop] += weight * square
            else:
                total[start:stop] += weight * square
            along[start:stop] += ramp
        return total / (along[:, None] if self.horizontal else along[:, None, None])


def mirrored_to(picture: Pixels, multiple: int) -> Pixels:
    """Continues an (h, w, 3) picture by its mirror image, right and below, to sides that `multiple` divides."""
    below, right = -picture.shape[0] % multiple, -picture.shape[1] % multiple
    continued: Pixels = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REFLECT)
    return continued


def as_signed(pictures: list[Pixels]) -> Levels:
    """Converts N (h, w, 3) uint8 pictures of equal sides to (N, 3, h, w) float32 in [-1, 1]."""
    signed: Levels = cv2.dnn.blobFromImages(pictures, 1 / 127.5, mean=(127.5, 127.5, 127.5))
    return signed


def place_windows(shape: tuple[int, int], side: int, overlap: float) -> Windows:
    """Covers an (h, w) picture whose short side is `side` with as few squares as the overlap allows.

    Args:
        shape: (h, w), with min(h, w) == side.
        side: S.
        overlap: share of a square that the next one covers too, at least.
    """
    height, width = shape
    longest = max(height, width)
    steps = int(np.ceil((longest - side) / max(1, side * (1 - overlap))))
    starts = [round(i * (longest - side) / steps) for i in range(steps + 1)] if steps else [0]
    return Windows(side, tuple(starts), horizontal=width > height)


def enlarge(levels: Levels, shape: tuple[int, int], budget_levels: int) -> Perturbation:
    """Upsamples (h, w) or (h, w, 3) levels to (H, W), bicubic, then rounds and clips to the budget.

    Bicubic interpolation overshoots, so the clip comes after it. It is done in fixed point, in steps of 1/256 level:
    twice as fast as in floats.
    """
    bounded = np.clip(levels, -budget_levels, budget_levels)
    fixed = np.rint(bounded * np.float32(FIXED_POINT)).astype(np.int16)
    if fixed.shape[:2] != shape:
        smaller = shape[0] < fixed.shape[0]
        fixed = cv2.resize(fixed, shape[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    out = np.empty(fixed.shape, np.int8)
    for part in strips(out):
        rounded = fixed[part]  # a view: the strip is worked on in place
        rounded += np.int16(FIXED_POINT // 2)
        rounded >>= np.int16(FIXED_POINT.bit_length() - 1)
        np.clip(rounded, -budget_levels, budget_levels, out=rounded)
        out[part] = rounded
    return out


def add_saturating(pixels: Pixels, perturbation: Perturbation) -> Pixels:
    """Returns pixels + perturbation, kept within 0 to 255; both (H, W) or (H, W, 3)."""
    out = np.empty_like(pixels)
    for part in strips(pixels):
        total = pixels[part].astype(np.int16)
        total += perturbation[part]
        np.clip(total, 0, 255, out=total)
        out[part] = total
    return out


def strips(picture: npt.NDArray[np.generic]) -> Iterator[slice]:
    """Yields slices of whole rows, of about STRIP_VALUES values each."""
    rows = max(1, STRIP_VALUES // max(1, picture[0].size))
    for start in range(0, len(picture), rows):
        yield slice(start, start + rows)

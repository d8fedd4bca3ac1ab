"""Carries pictures between their native size and the defender's squares.

H, W native sides; h, w sides after the short one became S, the working resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.photos import Pixels

Levels = npt.NDArray[np.float32]


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
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


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

    def cut(self, picture: Pixels) -> npt.NDArray[np.float32]:
        """Returns (N, 3, S, S) float32 squares in [-1, 1] of an (h, w, 3) picture."""
        parts = [
            picture[:, start : start + self.side] if self.horizontal else picture[start : start + self.side]
            for start in self.starts
        ]
        squares = np.stack(parts).transpose(0, 3, 1, 2)  # (N, 3, S, S)
        return np.ascontiguousarray(squares, np.float32) * np.float32(1 / 127.5) - np.float32(1)

    def join(self, squares: Levels, shape: tuple[int, int]) -> Levels:
        """Blends (N, 3, S, S) squares into an (h, w, 3) picture; the weights sum to one, so a bound stays a bound."""
        if len(self.starts) == 1:
            return np.ascontiguousarray(squares[0].transpose(1, 2, 0))
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


def enlarge(levels: Levels, shape: tuple[int, int], budget_levels: int) -> npt.NDArray[np.int8]:
    """Upsamples (h, w) or (h, w, 3) levels to (H, W), bicubic, then rounds and clips to the budget.

    Bicubic interpolation overshoots, so the clip comes after it.
    """
    native = cv2.resize(levels, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    rounded = cv2.addWeighted(native, 1.0, native, 0.0, 0.0, dtype=cv2.CV_8S)  # converts with rounding, in one pass
    return np.clip(rounded, np.int8(-budget_levels), np.int8(budget_levels), out=rounded)

"""Ways in which an attacker may come by a photo that was protected whole: as it is, re-coded, shrunk, or a part of it.

H, W sides of the whole photo; S the side at which the attacker works.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.training.evaluation.attackers.transforms import jpeg, shrink_and_enlarge
from rid.training.evaluation.judges.identity import Face

AS_IS, JPEG, HALF, CUT_60, CUT_25 = "as is", "JPEG 75", "half size", "cut at 60 %", "cut at 25 %"
VIEWS = (AS_IS, JPEG, HALF, CUT_60, CUT_25)
SHARES = {CUT_60: 0.6, CUT_25: 0.25}  # of the short side
QUALITY = 75


def view(photo: NDArray[np.uint8], name: str, side: int, face: Face | None = None) -> NDArray[np.uint8]:
    """Returns what the attacker works with, (S, S, 3).

    Squares are cut around the face as far as the photo reaches, or around the middle where no face is known. What is
    done to the photo is done to the whole of it, before the square is cut.

    Args:
        photo: (H, W, 3) upright.
        name: one of VIEWS.
        side: S.
        face: where the face is.

    Raises:
        ValueError: if there is no such view.
    """
    if name not in VIEWS:
        raise ValueError(f"view {name!r} is unknown: one of {', '.join(VIEWS)}")
    treated = {JPEG: lambda: jpeg(photo, QUALITY), HALF: lambda: shrink_and_enlarge(photo)}.get(name, lambda: photo)()
    edge = max(1, round(min(photo.shape[:2]) * SHARES.get(name, 1.0)))
    height, width = photo.shape[:2]
    across, down = (face.x, face.y) if face is not None else (width / 2, height / 2)
    top, left = _start(down, edge, height), _start(across, edge, width)
    return resized(treated[top : top + edge, left : left + edge], side)


def resized(square: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resizes a square to (S, S, 3), averaging where it gets smaller and bicubic where it gets larger."""
    if square.shape[0] == side:
        return np.ascontiguousarray(square)
    kind = cv2.INTER_AREA if square.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(square), (side, side), interpolation=kind), np.uint8)


def _start(centre: float, edge: int, limit: int) -> int:
    return min(max(0, round(centre - edge / 2)), limit - edge)

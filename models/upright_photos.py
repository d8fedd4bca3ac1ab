"""Files as people see them: decoded, upright, in colour; and the squares that networks see of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.models.photo_files.images import decode
from rid.models.photo_files.photos import PhotoRefused, Pixels
from rid.models.photo_files.resampling import shrink, to_upright
from rid.models.policy import READ_ALL
from rid.models.protector import colour_planes


def upright_rgb(data: bytes) -> NDArray[np.uint8] | None:
    """Decodes a file to an upright (H, W, 3) picture, grey ones too; None if it cannot be decoded."""
    try:
        photo = decode(data, READ_ALL)
    except PhotoRefused:
        return None
    planes: Pixels = to_upright(colour_planes(photo.pixels), photo.header.orientation)
    return cv2.cvtColor(planes, cv2.COLOR_GRAY2RGB) if planes.ndim == 2 else np.ascontiguousarray(planes)


def centre_square(upright: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns the centre square of an upright (H, W) or (H, W, 3) picture, (side, side, 3), shrunk as for serving."""
    small = shrink(np.ascontiguousarray(upright), side)
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    square = small[top : top + side, left : left + side]
    return cv2.cvtColor(square, cv2.COLOR_GRAY2RGB) if square.ndim == 2 else np.ascontiguousarray(square)

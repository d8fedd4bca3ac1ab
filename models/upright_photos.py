"""Files as people see them: decoded, upright, in colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.models.photo_files.images import decode
from rid.models.photo_files.photos import PhotoRefused, Pixels
from rid.models.photo_files.resampling import to_upright
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

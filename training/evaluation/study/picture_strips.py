"""Pictures of one size side by side in a PNG, which loses nothing, as text. N pictures, S side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pack(pictures: Sequence[NDArray[np.uint8]]) -> str:
    """Returns (S, S, 3) pictures as one PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def unpack(packed: str) -> NDArray[np.uint8]:
    """Returns the (N, S, S, 3) pictures of a strip."""
    with Image.open(io.BytesIO(base64.b64decode(packed))) as picture:
        strip = np.asarray(picture.convert("RGB"))  # (S, N * S, 3)
    side = len(strip)
    return np.ascontiguousarray(strip.reshape(side, -1, side, 3).transpose(1, 0, 2, 3))

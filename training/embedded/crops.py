"""Small training pictures for where there is no set of faces: crops of a few photographs."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

LARGEST = 280  # pixels of a photograph that one crop may cover


def random_crops(
    photographs: Sequence[NDArray[np.uint8]], count: int, side: int = 64, seed: int = 0
) -> NDArray[np.uint8]:
    """Returns (count, side, side, 3) seeded square crops of (H, W, 3) photographs, which take turns.

    Args:
        photographs: each with sides of more than LARGEST pixels.
        count: number of crops.
        side: of a crop, in pixels.
        seed: of sizes and places.
    """
    random = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        source = photographs[index % len(photographs)]
        size = int(random.integers(side, LARGEST))
        top, left = (int(random.integers(0, extent - size)) for extent in source.shape[:2])
        crop = source[top : top + size, left : left + size]
        crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
    return np.stack(crops)

"""Perturbations of photos for tests: one that all photos share, and one that is each photo's own."""

import numpy as np
from numpy.typing import NDArray


def shared(photos: NDArray[np.uint8], levels: int = 8) -> NDArray[np.uint8]:
    """Adds the same random blocks of 8 pixels to every (N, S, S, 3) photo."""
    side = photos.shape[1]
    blocks = np.random.default_rng(5).choice([-levels, levels], (side // 8, side // 8, 3))
    return np.clip(photos + np.kron(blocks, np.ones((8, 8, 1), int)), 0, 255).astype(np.uint8)


def own(photos: NDArray[np.uint8], levels: int = 8) -> NDArray[np.uint8]:
    """Adds other random blocks of 8 pixels to each (N, S, S, 3) photo."""
    random = np.random.default_rng(6)
    side = photos.shape[1]
    changed = [
        photo + np.kron(random.choice([-levels, levels], (side // 8, side // 8, 3)), np.ones((8, 8, 1), int))
        for photo in photos
    ]
    return np.clip(np.stack(changed), 0, 255).astype(np.uint8)

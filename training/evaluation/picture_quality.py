"""How protected photos look beside the clean ones: PSNR and SSIM, means over photos."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.quality import squared_distance, ssim


def picture_quality(clean: NDArray[np.uint8], protected: NDArray[np.uint8]) -> dict[str, float]:
    """Compares (N, S, S, 3) photos; unchanged ones are left out, and none changed gives nothing."""
    pairs = [(x, y) for x, y in zip(clean, protected, strict=True) if not np.array_equal(x, y)]
    if not pairs:
        return {}
    psnr = [10 * np.log10(255**2 * x.size / squared_distance(x, y)) for x, y in pairs]
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean([ssim(x, y) for x, y in pairs]))}

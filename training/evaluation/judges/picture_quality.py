"""The look of photos: protected ones beside the clean ones, and pictures by themselves. Means over photos."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rid.models.photo_files.quality import squared_distance, ssim
from rid.training.evaluation.judges.brisque import brisque
from rid.training.evaluation.judges.brisque_fit import find_brisque_fit
from rid.training.evaluation.judges.perceptual import perceptual_distances


def picture_quality(clean: NDArray[np.uint8], protected: NDArray[np.uint8]) -> dict[str, float]:
    """Returns PSNR (dB), SSIM and a perceptual distance by its name of (N, S, S, 3) photos.

    Unchanged ones are left out, and none changed gives nothing.

    Raises:
        PerceptualMissing: if no perceptual distance is installed.
    """
    pairs = [(x, y) for x, y in zip(clean, protected, strict=True) if not np.array_equal(x, y)]
    if not pairs:
        return {}
    psnr = [10 * np.log10(255**2 * x.size / squared_distance(x, y)) for x, y in pairs]
    perceptual = perceptual_distances(pairs)
    return {
        "psnr": float(np.mean(psnr)),
        "ssim": float(np.mean([ssim(x, y) for x, y in pairs])),
        perceptual.name: float(perceptual.values.mean()),
    }


def naturalness(name: str, pictures: NDArray[np.uint8]) -> dict[str, float]:
    """Returns the mean BRISQUE of (N, S, S, 3) pictures under a name; those of one colour have none.

    Nothing is returned where no picture has one, or the package with the fit is not installed.
    """
    if find_brisque_fit() is None:
        return {}
    scores = [brisque(picture) for picture in pictures if picture.min() != picture.max()]
    return {name: float(np.mean(scores))} if scores else {}

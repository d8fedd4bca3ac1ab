"""Photos and two small real diffusion pipelines for the tests that train and measure."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage import data

from rid.training.embedded.architecture import finished_pipelines
from rid.training.embedded.crops import random_crops
from rid.training.embedded.quick import build_quick_pipelines


def photo_crops(count: int, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Returns (count, side, side, 3) seeded crops of photographs that scikit-image ships."""
    return random_crops([data.astronaut(), data.chelsea(), data.coffee()], count, side, seed)


def quick_pipelines(folder: Path) -> dict[str, Path]:
    """Trains and saves the two pipelines, once a folder."""
    return finished_pipelines(folder) or build_quick_pipelines(
        folder, photo_crops(128), autoencoder_steps=60, denoiser_steps=60
    )

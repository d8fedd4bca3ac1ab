"""Photos and two small real diffusion pipelines for the tests that train and measure."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from training.embedded.quick import build_quick_pipelines


def photo_crops(count: int, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Returns (count, side, side, 3) seeded crops of photographs that scikit-image ships."""
    sources = [data.astronaut(), data.chelsea(), data.coffee()]
    random = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        source = sources[index % len(sources)]
        size = int(random.integers(side, 280))
        top, left = (int(random.integers(0, extent - size)) for extent in source.shape[:2])
        crop = source[top : top + size, left : left + size]
        crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
    return np.stack(crops)


def quick_pipelines(folder: Path) -> dict[str, Path]:
    """Trains and saves the two pipelines, once a folder."""
    done = folder / "done"
    if not done.exists():
        made = build_quick_pipelines(folder, photo_crops(128), autoencoder_steps=60, denoiser_steps=60)
        done.write_text(" ".join(made), encoding="utf-8")
    return {name: folder / name for name in done.read_text(encoding="utf-8").split()}

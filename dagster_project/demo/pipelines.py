"""The demo's frozen diffusion models: two small pipelines, trained here on crops of the demo's photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dagster_project.demo.catalog import photograph

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 64


def demo_pipelines(folder: Path, steps: int) -> tuple[list[Path], bool]:
    """Returns the folders of an epsilon and a v-prediction pipeline, and whether they were trained now.

    Args:
        folder: where they lie; `done` in it is written last.
        steps: of the shared autoencoder, and of each U-Net.
    """
    done = folder / "done"
    if done.exists():
        return [folder / name for name in done.read_text(encoding="utf-8").split()], False
    from training.embedded.quick import build_quick_pipelines

    made = build_quick_pipelines(folder, photo_crops(256), autoencoder_steps=steps, denoiser_steps=steps)
    done.write_text(" ".join(made), encoding="utf-8")
    return list(made.values()), True


def photo_crops(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Returns (count, 64, 64, 3) seeded crops of the demo's photographs."""
    sources = [np.asarray(photograph(name).convert("RGB")) for name in PHOTOGRAPHS]
    random = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        source = sources[index % len(sources)]
        size = int(random.integers(SIDE, 280))
        top, left = (int(random.integers(0, extent - size)) for extent in source.shape[:2])
        crop = source[top : top + size, left : left + size]
        crops.append(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return np.stack(crops)

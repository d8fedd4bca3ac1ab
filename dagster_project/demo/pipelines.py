"""The demo's frozen diffusion models: two small pipelines, trained here on crops of the demo's photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rid.dagster_project.demo.catalog import photograph
from rid.training.embedded.architecture import finished_pipelines
from rid.training.embedded.crops import random_crops

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CROPS = 256


def demo_pipelines(folder: Path, steps: int) -> tuple[list[Path], bool]:
    """Returns the folders of an epsilon and a v-prediction pipeline, and whether they were trained now.

    Args:
        folder: where they lie.
        steps: of the shared autoencoder, and of each U-Net.
    """
    found = finished_pipelines(folder)
    if found:
        return list(found.values()), False
    from rid.training.embedded.quick import build_quick_pipelines

    crops = random_crops([np.asarray(photograph(name).convert("RGB")) for name in PHOTOGRAPHS], CROPS)
    made = build_quick_pipelines(folder, crops, autoencoder_steps=steps, denoiser_steps=steps)
    return list(made.values()), True

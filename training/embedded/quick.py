"""Two small Stable-Diffusion-layout pipelines, trained for seconds on whatever photos are at hand.

They share an autoencoder; one predicts epsilon, the other v. The demo and the tests load them with the same code that
loads a real model. They are far too small to draw anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from rid.training.embedded.architecture import (
    DONE,
    SIZES,
    PredictionType,
    build_autoencoder,
    build_denoiser,
    build_noise_scheduler,
    build_text_encoder,
    build_tokenizer,
)
from rid.training.embedded.faces import CaptionedFaces
from rid.training.embedded.train_autoencoder import train_autoencoder
from rid.training.embedded.train_denoiser import TextToImage, train_denoiser


def build_quick_pipelines(
    folder: Path,
    pixels: NDArray[np.uint8],
    *,
    autoencoder_steps: int,
    denoiser_steps: int,
    seed: int = 0,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Path]:
    """Trains and saves `folder/epsilon` and `folder/v_prediction`.

    Args:
        folder: where the pipeline folders are written.
        pixels: (N, 64, 64, 3) uint8 photos to train on.
        autoencoder_steps: steps of 16 photos for the shared autoencoder.
        denoiser_steps: steps of 16 photos for each U-Net.
        seed: of weights and draws.
        on_step: called with a record of each step.

    Returns:
        The pipeline folder of each prediction type.
    """
    size = SIZES["tiny-64"]
    torch.manual_seed(seed)
    vae = build_autoencoder(size)
    train_autoencoder(vae, pixels, steps=autoencoder_steps, batch=16, learning_rate=2e-3, seed=seed, on_step=on_step)
    vae.eval().requires_grad_(False)
    faces = CaptionedFaces(pixels, ["photo"] * len(pixels))
    folders = {}
    for index, prediction_type in enumerate(get_args(PredictionType)):
        tokenizer = build_tokenizer(folder / prediction_type / "tokenizer")
        torch.manual_seed(seed + 1 + index)
        model = TextToImage(
            vae=vae,
            unet=build_denoiser(size),
            text_encoder=build_text_encoder(size, tokenizer),
            tokenizer=tokenizer,
            scheduler=build_noise_scheduler(prediction_type),
        )
        averaged = train_denoiser(
            model,
            faces,
            steps=denoiser_steps,
            batch=16,
            learning_rate=1e-3,
            seed=seed + 1 + index,
            on_step=lambda record, _: on_step(record),
        )
        averaged.save(folder / prediction_type)
        folders[prediction_type] = folder / prediction_type
    (folder / DONE).write_text(" ".join(folders), encoding="utf-8")
    return folders

"""A pipeline folder with random weights: real files of a real layout, made in a moment."""

from pathlib import Path

import torch

from rid.training.embedded.architecture import (
    EmbeddedSize,
    PredictionType,
    build_autoencoder,
    build_denoiser,
    build_noise_scheduler,
    build_text_encoder,
    build_tokenizer,
    save_pipeline,
)

SIDE = 32


def write_random_pipeline(
    folder: Path, prediction: PredictionType = "epsilon", *, side: int = SIDE, vae_seed: int = 0, seed: int = 0
) -> Path:
    """Writes and returns a folder; equal seeds give equal weights."""
    size = EmbeddedSize(side, 4, (8, 8, 16, 16), (16, 32), 1, 16)
    tokenizer = build_tokenizer(folder / "tokenizer")
    torch.manual_seed(vae_seed)
    vae = build_autoencoder(size)
    torch.manual_seed(1000 + seed)
    save_pipeline(
        folder,
        vae=vae,
        unet=build_denoiser(size),
        text_encoder=build_text_encoder(size, tokenizer),
        tokenizer=tokenizer,
        scheduler=build_noise_scheduler(prediction),
    )
    return folder

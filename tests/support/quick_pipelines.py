"""Photos, and two small real diffusion pipelines trained on them for seconds, for the tests that train and measure."""

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from odd_photos import SHIPPED, shipped

LARGEST = 280  # pixels of a photograph that one crop may cover
STEPS = 60  # of the shared autoencoder, and of each U-Net
DONE = "done"  # names the pipelines of a folder of pipelines; written last


def photo_crops(count: int, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Returns (count, side, side, 3) seeded square crops of photographs that scikit-image ships, which take turns."""
    photographs = [shipped(name) for name in SHIPPED]
    random = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        source = photographs[index % len(photographs)]
        size = int(random.integers(side, LARGEST))
        top, left = (int(random.integers(0, extent - size)) for extent in source.shape[:2])
        crop = source[top : top + size, left : left + size]
        crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
    return np.stack(crops)


def quick_pipelines(folder: Path) -> dict[str, Path]:
    """Returns the folders of an epsilon and a v-prediction pipeline; trains and saves them, once a folder."""
    done = folder / DONE
    if not done.exists():
        done.write_text(" ".join(_train(folder, photo_crops(128))), encoding="utf-8")
    return {name: folder / name for name in done.read_text(encoding="utf-8").split()}


def _train(folder: Path, pixels: NDArray[np.uint8]) -> list[str]:
    """Trains one autoencoder and a U-Net of each prediction type; they are far too small to draw anything."""
    import torch

    from rid.training.embedded.architecture import (
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

    size = SIZES["tiny-64"]
    torch.manual_seed(0)
    vae = build_autoencoder(size)
    train_autoencoder(vae, pixels, steps=STEPS, batch=16, learning_rate=2e-3, seed=0, on_step=_ignore)
    vae.eval().requires_grad_(False)
    faces = CaptionedFaces(pixels, ["photo"] * len(pixels))
    for seed, prediction_type in enumerate(get_args(PredictionType), start=1):
        tokenizer = build_tokenizer(folder / prediction_type / "tokenizer")
        torch.manual_seed(seed)
        model = TextToImage(
            vae=vae,
            unet=build_denoiser(size),
            text_encoder=build_text_encoder(size, tokenizer),
            tokenizer=tokenizer,
            scheduler=build_noise_scheduler(prediction_type),
        )
        averaged = train_denoiser(model, faces, steps=STEPS, batch=16, learning_rate=1e-3, seed=seed, on_step=_ignore)
        averaged.save(folder / prediction_type)
    return list(get_args(PredictionType))


def _ignore(*_: object) -> None:
    """The progress of these trainings is shown to nobody."""

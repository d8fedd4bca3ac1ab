"""Whole trainings of the embedded model's parts: photos from Parquet files in, a folder out, with `log.jsonl`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rid.training.config import Precision
from rid.training.embedded.architecture import (
    SIZES,
    EmbeddedSize,
    PredictionType,
    build_autoencoder,
    build_denoiser,
    build_noise_scheduler,
    build_text_encoder,
    build_tokenizer,
)
from rid.training.embedded.faces import CaptionedFaces, load_faces
from rid.training.embedded.train_autoencoder import held_out_psnr, train_autoencoder
from rid.training.embedded.train_denoiser import TextToImage, train_denoiser

HELD_OUT = 256  # photos, or a quarter of fewer
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class EmbeddedRun:
    """The part that both trainings have in common.

    Attributes:
        photos: Parquet files with a column `image` and optionally `age` and `gender`.
        out: folder of the result.
        init: what to continue from; None starts afresh.
        size: a key of `SIZES`.
        steps: optimiser steps.
        batch: photos a step.
        learning_rate: of AdamW.
        seed: of every draw.
        precision: "auto" is bfloat16 autocast where the hardware multiplies it.
        threads: of torch.
    """

    photos: tuple[Path, ...]
    out: Path
    init: Path | None
    size: str
    steps: int
    batch: int
    learning_rate: float
    seed: int
    precision: Precision
    threads: int

    def sides(self) -> EmbeddedSize:
        """Returns the widths.

        Raises:
            ValueError: if there is no such size.
        """
        if self.size not in SIZES:
            raise ValueError(f"size {self.size!r} is unknown: choose one of {', '.join(sorted(SIZES))}")
        return SIZES[self.size]


@dataclass(frozen=True)
class AutoencoderRun(EmbeddedRun):
    """A training of the autoencoder; `init` is the folder of one.

    Attributes:
        decoder_only: keeps the latents as they are.
    """

    decoder_only: bool = False

    def __post_init__(self) -> None:
        if self.decoder_only and self.init is None:
            raise ValueError("--decoder-only keeps the latents of a trained autoencoder: give it with --init")


@dataclass(frozen=True)
class DenoiserRun(EmbeddedRun):
    """A training of the denoiser; `init` is the folder of a pipeline.

    Attributes:
        vae: folder of the autoencoder.
        text_from: folder of a pipeline whose text encoder and tokenizer are taken as they are; None trains its own.
        prediction_type: what the denoiser outputs.
    """

    vae: Path = Path()
    text_from: Path | None = None
    prediction_type: PredictionType = "epsilon"


def run_autoencoder(run: AutoencoderRun, on_step: Log) -> Path:
    """Trains an autoencoder and returns its folder, `out/vae`; every 200 steps it is written as it is.

    Raises:
        ValueError: if the size is unknown, or there are too few photos.
    """
    size = run.sides()
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    faces = load_faces(list(run.photos), size.image_size).pixels
    faces = faces[np.random.default_rng(0).permutation(len(faces))]
    held = _held_out(len(faces))
    vae = build_autoencoder(size)
    if run.init is not None:
        with _loading(run.init):
            vae = type(vae).from_pretrained(run.init)
    with _log(run.out) as write:

        def tell(record: dict[str, Any]) -> None:
            if record["step"] % 200 == 0 or record["step"] == record["steps"]:
                record |= {"psnr": held_out_psnr(vae, faces[:held])}
                write(record)
                vae.save_pretrained(run.out / "vae")
            on_step(record)

        train_autoencoder(
            vae,
            faces[held:],
            steps=run.steps,
            batch=run.batch,
            learning_rate=run.learning_rate,
            seed=run.seed,
            precision=run.precision,
            decoder_only=run.decoder_only,
            on_step=tell,
        )
    vae.save_pretrained(run.out / "vae")
    return run.out / "vae"


def run_denoiser(run: DenoiserRun, on_step: Log) -> Path:
    """Trains a denoiser and returns the pipeline's folder, `out`; every 500 steps it is written as it is.

    Raises:
        ValueError: if the size is unknown, or there are too few photos.
    """
    from diffusers import AutoencoderKL

    size = run.sides()
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    faces = load_faces(list(run.photos), size.image_size)
    order = np.random.default_rng(0).permutation(len(faces.pixels))[_held_out(len(faces.pixels)) :]
    with _loading(run.vae):
        vae = AutoencoderKL.from_pretrained(run.vae, torch_dtype=torch.float32)
    with _loading(run.text_from or run.init or run.out):
        unet, text_encoder, tokenizer = _text_and_denoiser(run, size)
    model = TextToImage(
        vae=vae.eval().requires_grad_(False),
        unet=unet.train(),
        text_encoder=text_encoder.train().requires_grad_(run.text_from is None),
        tokenizer=tokenizer,
        scheduler=build_noise_scheduler(run.prediction_type),
    )
    with _log(run.out) as write:

        def tell(record: dict[str, Any], averaged: TextToImage) -> None:
            if record["step"] % 100 == 0:
                write(record)
            if record["step"] % 500 == 0:
                averaged.save(run.out)
            on_step(record)

        averaged = train_denoiser(
            model,
            CaptionedFaces(faces.pixels[order], [faces.captions[i] for i in order]),
            steps=run.steps,
            batch=run.batch,
            learning_rate=run.learning_rate,
            seed=run.seed,
            precision=run.precision,
            on_step=tell,
        )
    averaged.save(run.out)
    return run.out


def _text_and_denoiser(run: DenoiserRun, size: EmbeddedSize) -> tuple[Any, Any, Any]:
    """Returns U-Net, text encoder and tokenizer to start from.

    A tokenizer is not built twice alike: a text encoder only understands the one it was trained with.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    source = run.text_from or run.init
    if source is None:
        tokenizer = build_tokenizer(run.out / "tokenizer")
        return build_denoiser(size), build_text_encoder(size, tokenizer), tokenizer
    tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32)
    if run.init is None:
        return build_denoiser(size), text_encoder, tokenizer
    unet = UNet2DConditionModel.from_pretrained(run.init, subfolder="unet", torch_dtype=torch.float32)
    return unet, text_encoder, tokenizer


def _held_out(photos: int) -> int:
    """Returns how many photos are kept from training.

    Raises:
        ValueError: if nothing would be left to train on.
    """
    if photos < 2:
        raise ValueError(f"{photos} photos are too few to train on: give files with more")
    return min(HELD_OUT, max(1, photos // 4))


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Says in one sentence that a folder does not hold what it should.

    Raises:
        ValueError: in place of what diffusers and transformers raise.
    """
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} does not hold the saved model that is needed: {reason}") from error


@contextmanager
def _log(out: Path) -> Iterator[Log]:
    """Appends records, with the seconds so far, to `log.jsonl` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:

        def write(record: dict[str, Any]) -> None:
            log.write(json.dumps(record | {"seconds": round(time.monotonic() - began)}) + "\n")
            log.flush()

        yield write

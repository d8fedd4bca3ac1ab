"""Trains the embedded model's text-conditioned denoiser, and with it the text encoder.

    python -m rid.training.embedded.train_denoiser --photos faces.parquet --vae FOLDER/vae --out FOLDER --steps 20000

The latents of every photo are computed once. `--init PIPELINE` continues from a saved pipeline. `--text-from PIPELINE`
takes that pipeline's text encoder and tokenizer as they are, frozen, so that several denoisers can share it.

B batch, C latent channels, h and w latent sides, L prompt length, E text width.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rid.training.batches import pixels_to_signed
from rid.training.config import PRECISIONS, Precision
from rid.training.devices import autocast
from rid.training.embedded.architecture import (
    PROMPT_LENGTH,
    SIZES,
    build_denoiser,
    build_noise_scheduler,
    build_text_encoder,
    build_tokenizer,
    save_pipeline,
)
from rid.training.embedded.faces import CaptionedFaces, load_faces

CAPTION_DROPOUT = 0.15
EMA_DECAY = 0.999
HELD_OUT = 256
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TextToImage:
    """The parts that a denoiser's training touches.

    Attributes:
        vae: frozen autoencoder.
        unet: the denoiser.
        text_encoder: trained with it, or frozen.
        tokenizer: turns captions into token ids.
        scheduler: the noise schedule and the prediction type.
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def save(self, folder: Path) -> None:
        """Writes the pipeline folder in float16."""
        halves = {name: copy.deepcopy(getattr(self, name)).half() for name in ("vae", "unet", "text_encoder")}
        save_pipeline(folder, **halves, tokenizer=self.tokenizer, scheduler=self.scheduler)


@torch.no_grad()
def encode_latents(vae: Any, pixels: NDArray[np.uint8]) -> Tensor:
    """Returns scaled latent means of (N, H, W, 3) photos and of their mirror images, (2, N, C, h, w)."""
    sides = []
    for mirrored in (False, True):
        parts = []
        for start in range(0, len(pixels), 64):
            chosen = pixels[start : start + 64]
            photos = pixels_to_signed(chosen[:, :, ::-1] if mirrored else chosen)
            parts.append(vae.encode(photos).latent_dist.mean * vae.config.scaling_factor)  # (B, C, h, w)
        sides.append(torch.cat(parts))  # (N, C, h, w)
    return torch.stack(sides)  # (2, N, C, h, w)


def tokenize(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Returns (N, L) token ids, padded."""
    encoded = tokenizer(prompts, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def denoising_target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Returns the U-Net's target: the noise, or the velocity if the scheduler predicts that."""
    if scheduler.config.prediction_type == "v_prediction":
        return torch.as_tensor(scheduler.get_velocity(latents, noise, timesteps))
    return noise


def train_denoiser(
    model: TextToImage,
    faces: CaptionedFaces,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    precision: Precision = "auto",
    on_step: Callable[[dict[str, Any], TextToImage], None],
) -> TextToImage:
    """Trains U-Net and text encoder in place and returns the model with their averaged weights.

    Args:
        model: its text encoder is trained where its parameters require gradients.
        faces: (N, H, W, 3) photos with captions; a share of captions is dropped for classifier-free guidance.
        steps: optimiser steps.
        batch: photos a step.
        learning_rate: of AdamW, after 200 steps of warm-up; it decays linearly.
        seed: of every draw.
        precision: "auto" is bfloat16 autocast where the hardware multiplies it; weights stay float32.
        on_step: called with each step's record and the averaged model so far.
    """
    torch.manual_seed(seed)
    latents = encode_latents(model.vae, faces.pixels)
    tokens, empty = tokenize(model.tokenizer, faces.captions), tokenize(model.tokenizer, [""])[0]
    modules = nn.ModuleList([model.unet, model.text_encoder])
    average = copy.deepcopy(modules).requires_grad_(False)
    averaged = TextToImage(model.vae, average[0], average[1], model.tokenizer, model.scheduler)
    trainable = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=1e-2)
    mean_loss = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 200) * max(0.05, 1 - step / steps)
        index = torch.randint(0, latents.shape[1], (batch,))
        z = latents[torch.randint(0, 2, (batch,)), index]  # (B, C, h, w)
        ids = torch.where(torch.rand(batch, 1) < CAPTION_DROPOUT, empty, tokens[index])  # (B, L)
        noise, timesteps = torch.randn_like(z), torch.randint(0, model.scheduler.config.num_train_timesteps, (batch,))
        noisy = model.scheduler.add_noise(z, noise, timesteps)  # (B, C, h, w)
        with autocast(precision, z.device):
            states = model.text_encoder(ids).last_hidden_state  # (B, L, E)
            prediction = model.unet(noisy, timesteps, encoder_hidden_states=states).sample  # (B, C, h, w)
        loss = F.mse_loss(prediction.float(), denoising_target(model.scheduler, z, noise, timesteps))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        _update_average(average, modules, step)
        mean_loss = loss.item() if step == 0 else 0.99 * mean_loss + 0.01 * loss.item()
        on_step({"step": step + 1, "steps": steps, "loss": mean_loss}, averaged)
    return averaged


@torch.no_grad()
def _update_average(average: nn.Module, current: nn.Module, step: int) -> None:
    """Moves the moving average towards the current weights; it is short at first, then EMA_DECAY."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), current.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def main() -> None:
    """Trains and saves the pipeline every 500 steps; progress goes to `log.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--text-from", type=Path)
    parser.add_argument("--prediction-type", choices=("epsilon", "v_prediction"), default="epsilon")
    parser.add_argument("--size", choices=sorted(SIZES), default="faces-64")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    size = SIZES[options.size]
    faces = load_faces(options.photos, size.image_size)
    order = np.random.default_rng(0).permutation(len(faces.pixels))[HELD_OUT:]
    text_source = options.text_from or options.init
    # A tokenizer is not built twice alike: a text encoder only understands the one it was trained with.
    if text_source:
        tokenizer = CLIPTokenizer.from_pretrained(text_source / "tokenizer")
    else:
        tokenizer = build_tokenizer(options.out / "tokenizer")
    unet, text_encoder = build_denoiser(size), build_text_encoder(size, tokenizer)
    if options.init:
        unet = UNet2DConditionModel.from_pretrained(options.init, subfolder="unet", torch_dtype=torch.float32)
    if text_source:
        text_encoder = CLIPTextModel.from_pretrained(text_source / "text_encoder", dtype=torch.float32)
    model = TextToImage(
        vae=AutoencoderKL.from_pretrained(options.vae, torch_dtype=torch.float32).eval().requires_grad_(False),
        unet=unet.train(),
        text_encoder=text_encoder.train().requires_grad_(not options.text_from),
        tokenizer=tokenizer,
        scheduler=build_noise_scheduler(options.prediction_type),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (options.out / "log.jsonl").open("a", encoding="utf-8") as log:

        def on_step(record: dict[str, Any], averaged: TextToImage) -> None:
            if record["step"] % 100 == 0:
                record |= {"seconds": round(time.monotonic() - began)}
                log.write(json.dumps(record) + "\n")
                log.flush()
                print(record, flush=True)
            if record["step"] % 500 == 0:
                averaged.save(options.out)

        averaged = train_denoiser(
            model,
            CaptionedFaces(faces.pixels[order], [faces.captions[i] for i in order]),
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            seed=options.seed,
            precision=options.precision,
            on_step=on_step,
        )
    averaged.save(options.out)


if __name__ == "__main__":
    main()

"""Trains the embedded model's text-conditioned denoiser, and with it the text encoder.

    python -m training.embedded.train_denoiser --photos faces.parquet --vae FOLDER/vae --out FOLDER --steps 20000

The latents of every photo are computed once. `--init PIPELINE` continues from a saved pipeline; with
`--freeze-text` the text encoder stays as it is there, so that several denoisers can share it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from training.embedded.architecture import (
    PROMPT_LENGTH,
    SIZES,
    build_denoiser,
    build_noise_scheduler,
    build_text_encoder,
    build_tokenizer,
    save_pipeline,
)
from training.embedded.faces import load_faces

CAPTION_DROPOUT = 0.15
EMA_DECAY = 0.999
HELD_OUT = 512


@torch.no_grad()
def encode_latents(vae: Any, pixels: np.ndarray) -> torch.Tensor:
    """Returns scaled latent means of (N, H, W, 3) uint8 photos and of their mirror images, (2, N, C, h, w)."""
    sides = []
    for flipped in (False, True):
        parts = []
        for start in range(0, len(pixels), 64):
            chosen = pixels[start : start + 64]
            chosen = chosen[:, :, ::-1] if flipped else chosen
            photos = torch.from_numpy(chosen.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1.0))
            parts.append(vae.encode(photos).latent_dist.mean * vae.config.scaling_factor)  # (B, C, h, w)
        sides.append(torch.cat(parts))  # (N, C, h, w)
    return torch.stack(sides)  # (2, N, C, h, w)


def tokenize(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Returns (N, PROMPT_LENGTH) token ids, padded."""
    encoded = tokenizer(prompts, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def denoising_target(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the U-Net is asked for: the noise, or the velocity if the scheduler predicts that."""
    if scheduler.config.prediction_type == "v_prediction":
        return torch.as_tensor(scheduler.get_velocity(latents, noise, timesteps))
    return noise


@torch.no_grad()
def update_average(average: torch.nn.Module, current: torch.nn.Module, step: int) -> None:
    """Moves the exponential moving average towards the current weights; short at first, then EMA_DECAY."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), current.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def main() -> None:
    """Trains and saves the pipeline every 1,000 steps; progress goes to `log.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--freeze-text", action="store_true")
    parser.add_argument("--prediction-type", choices=("epsilon", "v_prediction"), default="epsilon")
    parser.add_argument("--size", choices=sorted(SIZES), default="faces-64")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    from diffusers import AutoencoderKL

    size = SIZES[options.size]
    faces = load_faces(options.photos, size.image_size)
    vae = AutoencoderKL.from_pretrained(options.vae).eval().requires_grad_(False)
    tokenizer = build_tokenizer(options.out / "tokenizer")
    if options.init:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        unet = UNet2DConditionModel.from_pretrained(options.init, subfolder="unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(options.init / "text_encoder", dtype=torch.float32)
    else:
        unet, text_encoder = build_denoiser(size), build_text_encoder(size, tokenizer)
    unet.train()
    text_encoder.train().requires_grad_(not options.freeze_text)
    scheduler = build_noise_scheduler(options.prediction_type)

    order = np.random.default_rng(0).permutation(len(faces.pixels))
    latents = encode_latents(vae, faces.pixels[order])
    tokens = tokenize(tokenizer, [faces.captions[i] for i in order])
    empty = tokenize(tokenizer, [""])[0]
    print({"latents": tuple(latents.shape), "std": round(latents.std().item(), 3)}, flush=True)

    modules = torch.nn.ModuleList([unet, text_encoder])
    average = copy.deepcopy(modules).requires_grad_(False)
    trainable = [p for p in modules.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=options.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 200) * max(0.05, 1 - step / options.steps)
    )
    began, running = time.time(), 0.0
    log = (options.out / "log.jsonl").open("a")
    for step in range(options.steps):
        index = torch.randint(HELD_OUT, latents.shape[1], (options.batch,))
        z = latents[torch.randint(0, 2, (options.batch,)), index]  # (B, C, h, w)
        ids = torch.where(torch.rand(options.batch, 1) < CAPTION_DROPOUT, empty, tokens[index])  # (B, PROMPT_LENGTH)
        noise = torch.randn_like(z)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (options.batch,))
        noisy = scheduler.add_noise(z, noise, timesteps)
        states = text_encoder(ids).last_hidden_state  # (B, PROMPT_LENGTH, text_width)
        prediction = unet(noisy, timesteps, states).sample
        loss = F.mse_loss(prediction, denoising_target(scheduler, z, noise, timesteps))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        schedule.step()
        update_average(average, modules, step)
        running = loss.item() if step == 0 else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % 100 == 0:
            record = {"step": step + 1, "loss": round(running, 4), "seconds": round(time.time() - began)}
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(record, flush=True)
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            half = copy.deepcopy(average).half()
            save_pipeline(
                options.out,
                vae=copy.deepcopy(vae).half(),
                unet=half[0],
                text_encoder=half[1],
                tokenizer=tokenizer,
                scheduler=scheduler,
            )
    log.close()


if __name__ == "__main__":
    main()

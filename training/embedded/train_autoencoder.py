"""Trains the embedded model's autoencoder.

    python -m training.embedded.train_autoencoder --photos faces.parquet --out FOLDER --steps 3000

The loss is L1 on pixels and on their horizontal and vertical differences (which keeps edges sharp without a
perceptual network), plus a light KL term. `--init` continues from an earlier run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.embedded.architecture import SIZES, build_autoencoder
from training.embedded.faces import load_faces

KL_WEIGHT = 1e-6
HELD_OUT = 256


def reconstruction_loss(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels and of their first differences; both (B, 3, H, W) in [-1, 1]."""
    error = reconstruction - target                                                              # (B, 3, H, W)
    vertical = error[:, :, 1:] - error[:, :, :-1]                                                # (B, 3, H-1, W)
    horizontal = error[:, :, :, 1:] - error[:, :, :, :-1]                                        # (B, 3, H, W-1)
    return error.abs().mean() + 0.5 * (vertical.abs().mean() + horizontal.abs().mean())


def batch(pixels: np.ndarray, index: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """Takes photos by index, flips half of them, and returns (B, 3, H, W) float32 in [-1, 1]."""
    chosen = pixels[index]                                                                       # (B, H, W, 3)
    flip = generator.random(len(index)) < 0.5
    chosen[flip] = chosen[flip][:, :, ::-1]
    return torch.from_numpy(chosen.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1.0))  # (B, 3, H, W)


@torch.no_grad()
def held_out_psnr(vae: torch.nn.Module, pixels: np.ndarray) -> float:
    """Mean PSNR in dB of the decoded posterior mean of (N, H, W, 3) uint8 photos."""
    total = []
    for start in range(0, len(pixels), 32):
        target = torch.from_numpy(pixels[start : start + 32].transpose(0, 3, 1, 2) / np.float32(127.5) - 1.0).float()
        mean = vae.encode(target).latent_dist.mean
        levels = 127.5 * (vae.decode(mean).sample.clamp(-1, 1) - target)
        total.append(10 * torch.log10(255**2 / levels.square().mean(dim=(1, 2, 3))))
    return float(torch.cat(total).mean())


@torch.no_grad()
def latent_scale(vae: torch.nn.Module, pixels: np.ndarray) -> float:
    """One over the standard deviation of the latents, so that scaled latents have unit variance."""
    target = torch.from_numpy(pixels[:512].transpose(0, 3, 1, 2) / np.float32(127.5) - 1.0).float()
    return float(1.0 / vae.encode(target).latent_dist.mean.std())


def main() -> None:
    """Trains and saves; progress goes to `log.jsonl` in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="faces-64")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = np.random.default_rng(options.seed)
    size = SIZES[options.size]
    faces = load_faces(options.photos, size.image_size).pixels
    order = generator.permutation(len(faces))
    held_out, train = faces[order[:HELD_OUT]], faces[order[HELD_OUT:]]

    vae = build_autoencoder(size)
    if options.init:
        vae = type(vae).from_pretrained(options.init)
    vae = vae.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=options.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    warm_up = 100
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / warm_up) * max(0.02, 1 - step / options.steps)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    with (options.out / "log.jsonl").open("a") as log:
        for step in range(options.steps):
            photos = batch(train, generator.integers(0, len(train), options.batch), generator)
            posterior = vae.encode(photos.contiguous(memory_format=torch.channels_last)).latent_dist
            loss = reconstruction_loss(vae.decode(posterior.sample()).sample, photos)
            loss = loss + KL_WEIGHT * posterior.kl().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if (step + 1) % 200 == 0 or step + 1 == options.steps:
                record = {"step": step + 1, "loss": loss.item(), "seconds": round(time.time() - began)}
                record["psnr"] = round(held_out_psnr(vae, held_out), 2)
                log.write(json.dumps(record) + "\n")
                log.flush()
                print(record, flush=True)
                vae.register_to_config(scaling_factor=latent_scale(vae, train))
                vae.save_pretrained(options.out / "vae")


if __name__ == "__main__":
    main()

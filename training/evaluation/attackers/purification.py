"""Diffusion purification: noise a photo, denoise it with a diffusion model, and hope that the protection stays behind.

`purify` is DiffPure (Nie et al. 2022) in latents: to a time step t*, then back with deterministic DDIM steps.
`purify_patches` is in the manner of GrIDPure (Zhao et al. 2024): small t*, on overlapping patches of the enlarged photo
that are blended, several rounds.

B batch, C latent channels, h and w latent sides, S the model's resolution.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.batches import pixels_to_signed

STRENGTH, SAMPLER_STEPS = 0.15, 10  # t* over T
PATCH_STRENGTH, PATCH_STEPS, ROUNDS = 0.05, 4, 2
ENLARGED = 1.5
KEPT = 0.9  # weight of the purified photo in each round


@torch.no_grad()
def purify(
    model: FrozenDiffusion,
    photos: NDArray[np.uint8],
    *,
    seed: int,
    strength: float = STRENGTH,
    steps: int = SAMPLER_STEPS,
) -> NDArray[np.uint8]:
    """Returns purified (B, S, S, 3) photos of the model's resolution."""
    latents = model.encode(pixels_to_signed(photos).to(model.device))  # (B, C, h, w)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    times = torch.linspace(strength * (len(model.schedule.abar) - 1), 0, steps + 1).round().long()
    noisy = model.schedule.add_noise(latents, noise, times[:1].expand(len(latents)).to(latents.device))
    for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        noisy = _ddim_step(model, noisy, now, then)
    return _decode(model, noisy)


def purify_patches(model: FrozenDiffusion, photos: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """Returns (B, S, S, 3) photos whose overlapping patches were purified at ENLARGED size."""
    side = model.native_resolution
    large = round(ENLARGED * side)
    for turn in range(ROUNDS):
        wide = np.stack([cv2.resize(photo, (large, large), interpolation=cv2.INTER_CUBIC) for photo in photos])
        clean = purify_tiles(model, wide, seed=seed + 101 * turn, strength=PATCH_STRENGTH, steps=PATCH_STEPS)
        blended = [cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA) for photo in clean]
        mixed = KEPT * np.stack(blended) + (1 - KEPT) * photos
        photos = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return photos


def purify_tiles(
    model: FrozenDiffusion, wide: NDArray[np.uint8], *, seed: int, strength: float, steps: int
) -> NDArray[np.float64]:
    """Purifies photos that are larger than the model's resolution in tiles of it.

    Args:
        model: what denoises.
        wide: (B, W, W, 3) photos, W at least S.
        seed: of the first tile's noise; the next one's is one higher.
        strength: t* over T.
        steps: of the sampler.

    Returns:
        (B, W, W, 3) levels, unrounded; tiles overlap by half of S or more, and are averaged where they do.
    """
    side = model.native_resolution
    corners = [(top, left) for top in _starts(wide.shape[1], side) for left in _starts(wide.shape[1], side)]
    total = np.zeros(wide.shape, np.float64)
    count = np.zeros((*wide.shape[1:3], 1))
    for index, (top, left) in enumerate(corners):
        tile = np.ascontiguousarray(wide[:, top : top + side, left : left + side])  # (B, S, S, 3)
        clean = purify(model, tile, seed=seed + index, strength=strength, steps=steps)
        total[:, top : top + side, left : left + side] += clean
        count[top : top + side, left : left + side] += 1
    return np.asarray(total / count)


def _starts(large: int, side: int) -> list[int]:
    """Returns where tiles begin, evenly; neighbours overlap by half or more."""
    gaps = -(-2 * (large - side) // side)
    return [round(index * (large - side) / max(1, gaps)) for index in range(gaps + 1)]


def _ddim_step(model: FrozenDiffusion, noisy: Tensor, now: int, then: int) -> Tensor:
    """One deterministic step from time `now` to time `then`; at 0 it ends on the estimate of the clean latents."""
    times = torch.full((len(noisy),), now, device=noisy.device)
    noise = model.predict_noise(noisy, times).to(noisy.dtype)  # (B, C, h, w)
    abar = model.schedule.at(times).to(noisy.dtype)  # (B, 1, 1, 1)
    clean = (noisy - (1 - abar).sqrt() * noise) / abar.sqrt()
    if then == 0:
        return clean
    after = model.schedule.at(torch.full_like(times, then)).to(noisy.dtype)
    return after.sqrt() * clean + (1 - after).sqrt() * noise


def _decode(model: FrozenDiffusion, latents: Tensor) -> NDArray[np.uint8]:
    unscaled = latents / model.scaling_factor + model.shift_factor
    vae = model.vae
    image = vae.decode(unscaled).sample  # type: ignore[operator]
    levels = ((image.float() + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    return np.asarray(levels.cpu().numpy(), np.uint8)

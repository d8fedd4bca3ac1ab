"""Noisy upscaling (Hönig et al., arXiv 2406.12027): drown the protection in noise, then let a diffusion model redraw.

Photos get Gaussian noise, are made smaller, and a diffusion model enlarges them beyond the size they had; then they
return to it. `upscale` does that with any text-to-image model, which starts from the noised latents of the enlarged
picture (SDEdit, Meng et al. 2022) tile by tile; `upscale_with` with a model that was trained to enlarge, such as
stabilityai/stable-diffusion-x4-upscaler.

B batch, S side of the photos.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.evaluation.attackers.purification import purify_tiles

if TYPE_CHECKING:
    from diffusers import StableDiffusionUpscalePipeline

NOISE_SIGMA = 10.0  # levels
SHRUNK = 0.5  # side of the noisy photo over S
ENLARGED = 2.0  # side of what is redrawn over S
STRENGTH, SAMPLER_STEPS = 0.15, 8  # t* over T
UPSCALER_STEPS = 20


def upscale(model: FrozenDiffusion, photos: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """Returns (B, S, S, 3) photos of the model's resolution, enlarged by a text-to-image model and made small again."""
    side = photos.shape[1]
    large = round(ENLARGED * side)
    wide = _resized(noisy_small(photos, seed), large, cv2.INTER_CUBIC)  # (B, 2S, 2S, 3)
    redrawn = purify_tiles(model, wide, seed=seed, strength=STRENGTH, steps=SAMPLER_STEPS)
    levels = np.stack([cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA) for photo in redrawn])
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def upscale_with(
    upscaler: StableDiffusionUpscalePipeline,
    photos: NDArray[np.uint8],
    *,
    seed: int,
    prompt: str = "",
    steps: int = UPSCALER_STEPS,
) -> NDArray[np.uint8]:
    """Returns (B, S, S, 3) photos enlarged by a pipeline that takes the small photo as a condition.

    The pipeline adds noise of its own to the condition, at its default level. Photos go through it one by one: what
    becomes of one does not depend on the others.
    """
    side = photos.shape[1]
    redrawn = []
    for index, small in enumerate(noisy_small(photos, seed)):
        large = upscaler(
            prompt,
            image=small[None].astype(np.float32) / 255,
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed + index),
            output_type="np",
        ).images[0]  # (2S, 2S, 3) in [0, 1]
        redrawn.append(np.clip(np.rint(255 * large), 0, 255).astype(np.uint8))
    return _resized(np.stack(redrawn), side, cv2.INTER_AREA)


def load_upscaler(location: str, *, device: str = "cpu") -> StableDiffusionUpscalePipeline:
    """Loads a diffusers upscaling pipeline.

    Args:
        location: a folder saved by `save_pretrained`, or a hub id such as "stabilityai/stable-diffusion-x4-upscaler".
        device: where it goes.

    Raises:
        ValueError: with one sentence, if it is no such pipeline.
    """
    from diffusers import DiffusionPipeline, StableDiffusionUpscalePipeline

    try:
        found: Any = DiffusionPipeline.from_pretrained(location)
    except (OSError, KeyError, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise ValueError(f"the upscaler {location} could not be loaded: {first}") from error
    if not isinstance(found, StableDiffusionUpscalePipeline):
        raise ValueError(
            f"{location} is a {type(found).__name__}, no StableDiffusionUpscalePipeline: without an upscaler the "
            "study enlarges with its first model"
        )
    found.set_progress_bar_config(disable=True)
    return found.to(device)


def noisy_small(photos: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Returns (B, S/2, S/2, 3) photos with noise of NOISE_SIGMA levels, made smaller after it."""
    noise = np.random.default_rng(seed).standard_normal(photos.shape)
    noisy = np.clip(np.rint(photos + NOISE_SIGMA * noise), 0, 255).astype(np.uint8)
    return _resized(noisy, round(SHRUNK * photos.shape[1]), cv2.INTER_AREA)


def _resized(photos: NDArray[np.uint8], side: int, interpolation: int) -> NDArray[np.uint8]:
    return np.stack([cv2.resize(photo, (side, side), interpolation=interpolation) for photo in photos]).astype(np.uint8)

"""Treatments of photos by an attacker who hopes to lose the protection before learning from them.

Each works on (N, S, S, 3) uint8 photos and keeps their size. N photos, S side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.evaluation.attackers.purification import purify, purify_patches
from rid.training.evaluation.attackers.restoration import RestorationNetwork, restore
from rid.training.evaluation.attackers.upscaling import upscale, upscale_with
from rid.training.evaluation.cells import RESTORE, UPSCALE

if TYPE_CHECKING:
    from diffusers import StableDiffusionUpscalePipeline

Photos = NDArray[np.uint8]

SHRINK = 0.5
BLUR_SIGMA = 1.0  # pixels
NOISE_LEVELS = 8.0
LARGEST_TURN = 8.0  # degrees
CROPPED = 0.9  # of the side


def transform_photos(
    photos: Photos,
    name: str,
    purifier: FrozenDiffusion,
    seed: int,
    *,
    upscaler: StableDiffusionUpscalePipeline | None = None,
    restoration: RestorationNetwork | None = None,
) -> Photos:
    """Applies a named transformation.

    Args:
        photos: at the model's resolution.
        name: `jpeg-Q`, `resize`, `blur`, `noise`, `crop-rotate`, `purify`, `purify-patches`, `upscale`, `restore`, or
            "" for none.
        purifier: the diffusion model that the two purifiers use.
        seed: of what is random.
        upscaler: what `upscale` enlarges with; the purifier if None.
        restoration: the network that `restore` applies.

    Raises:
        ValueError: if there is no such transformation, or no network to restore with.
    """
    random = np.random.default_rng(seed)
    if not name:
        return photos
    if name.startswith("jpeg-"):
        return _each(photos, lambda photo: jpeg(photo, int(name.removeprefix("jpeg-"))))
    if name == "purify":
        return purify(purifier, photos, seed=seed)
    if name == "purify-patches":
        return purify_patches(purifier, photos, seed=seed)
    if name == UPSCALE:
        return upscale(purifier, photos, seed=seed) if upscaler is None else upscale_with(upscaler, photos, seed=seed)
    if name == RESTORE:
        if restoration is None:
            raise ValueError("transformation 'restore' needs a network that was trained on pairs of the defender")
        return restore(restoration, photos)
    kinds: dict[str, Callable[[Photos], Photos]] = {
        "resize": shrink_and_enlarge,
        "blur": lambda photo: np.asarray(cv2.GaussianBlur(photo, (0, 0), BLUR_SIGMA), np.uint8),
        "noise": lambda photo: add_noise(photo, random),
        "crop-rotate": lambda photo: crop_and_rotate(photo, random),
    }
    if name not in kinds:
        known = ("jpeg-Q", "purify", "purify-patches", UPSCALE, RESTORE, *kinds)
        raise ValueError(f"transformation {name!r} is unknown: one of {', '.join(known)}")
    return _each(photos, kinds[name])


def jpeg(photo: Photos, quality: int) -> Photos:
    """Codes and decodes with half the chroma, as platforms do."""
    import simplejpeg

    coded = simplejpeg.encode_jpeg(np.ascontiguousarray(photo), quality=quality, colorsubsampling="420")
    return np.asarray(simplejpeg.decode_jpeg(coded), np.uint8)


def shrink_and_enlarge(photo: Photos) -> Photos:
    """Halves the side and doubles it again."""
    small = cv2.resize(photo, None, fx=SHRINK, fy=SHRINK, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def add_noise(photo: Photos, random: np.random.Generator) -> Photos:
    """Adds Gaussian noise of NOISE_LEVELS."""
    noisy = photo + NOISE_LEVELS * random.standard_normal(photo.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def crop_and_rotate(photo: Photos, random: np.random.Generator) -> Photos:
    """Turns by up to LARGEST_TURN and enlarges a window of CROPPED of the side to the whole."""
    side = photo.shape[0]
    slack = (1 - CROPPED) * side / 2
    centre = side / 2 + random.uniform(-slack, slack, 2)
    matrix = cv2.getRotationMatrix2D(tuple(centre), random.uniform(-LARGEST_TURN, LARGEST_TURN), 1 / CROPPED)
    matrix[:, 2] += side / 2 - centre
    return np.asarray(
        cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _each(photos: Photos, function: Callable[[Photos], Photos]) -> Photos:
    return np.stack([function(photo) for photo in photos])

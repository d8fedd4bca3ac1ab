"""Runs one attack: from a person's photos to pictures of the person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rid.training.personalization.config import PersonalizationConfig
from rid.training.personalization.dreambooth import dreambooth
from rid.training.personalization.inversion import invert
from rid.training.personalization.pipeline import TextToImage, draw

CLASS_SEED = 1_000_003


@dataclass(frozen=True)
class Attacker:
    """A model, and what it draws of people at large.

    Attributes:
        model: what is personalised.
        class_images: (M, S, S, 3) drawn of the class prompt, for prior preservation.
    """

    model: TextToImage
    class_images: NDArray[np.uint8]


def prepare(model: TextToImage, config: PersonalizationConfig) -> Attacker:
    """Draws the class images once; they serve every person."""
    side = model.resolution
    images = np.zeros((0, side, side, 3), np.uint8)
    if config.method == "dreambooth" and config.prior_weight:
        images = draw(model, config.class_prompt, config.class_images, seed=config.seed + CLASS_SEED)
    return Attacker(model, images)


def personalise(
    attacker: Attacker,
    photos: NDArray[np.uint8],
    config: PersonalizationConfig,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TextToImage:
    """Returns a model that learned the person.

    Args:
        attacker: the model and its class images.
        photos: (N, S, S, 3) uint8 at the model's resolution.
        config: the attack.
        on_step: called with each finished step and its loss.

    Raises:
        ValueError: if the photos have another resolution than the model.
    """
    side = attacker.model.resolution
    if photos.shape[1:] != (side, side, 3):
        raise ValueError(f"photos of shape {photos.shape[1:]} do not fit a model of {side} px: resize them to {side}")
    if config.method == "dreambooth":
        return dreambooth(attacker.model, photos, attacker.class_images, config, on_step)
    return invert(attacker.model, photos, config, on_step)

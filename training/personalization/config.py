"""The settings of a personalisation, and the named attacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rid.training.config import PRECISIONS, Precision

Method = Literal["dreambooth", "lora_textual_inversion", "textual_inversion"]


@dataclass(frozen=True)
class PersonalizationConfig:
    """One attack; the same configuration, photos and model give the same images.

    Attributes:
        method: dreambooth trains U-Net and text encoder, lora_textual_inversion low-rank weights and a new token's
            embedding, textual_inversion the embedding alone.
        instance_prompt: stands for the person; `{token}` is the person's word.
        class_prompt: the prompt of the prior-preservation images; only DreamBooth uses it.
        token: the person's word.
        initial_word: the word that a new token starts from; only the inversions use it.
        steps: optimiser steps.
        batch: photos a step.
        learning_rate: of AdamW at its highest; it falls linearly to zero at the last step.
        token_learning_rate: the same, of a new token's embedding.
        prior_weight: weight of the loss on class images.
        prior_batch: class images a step.
        class_images: number of class images that the model draws of itself.
        rank: of low-rank weights.
        guidance: of the pictures that are drawn in the end; 1 is none, at half the work.
        sampler_steps: of those pictures.
        precision: of the training; "auto" is bfloat16 autocast where the hardware multiplies bfloat16, else float32.
        seed: of every draw.
    """

    method: Method = "dreambooth"
    instance_prompt: str = "photo of {token} person"
    class_prompt: str = "photo of a person"
    token: str = "sks"
    initial_word: str = "person"
    steps: int = 250
    batch: int = 8
    learning_rate: float = 1e-4
    token_learning_rate: float = 5e-3
    prior_weight: float = 1.0
    prior_batch: int = 8
    class_images: int = 32
    rank: int = 32
    guidance: float = 3.0
    sampler_steps: int = 25
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ATTACKS:
            raise ValueError(f"personalisation method {self.method!r} is unknown: one of {', '.join(ATTACKS)}")
        if "{token}" not in self.instance_prompt:
            raise ValueError(f"instance prompt {self.instance_prompt!r} lacks {{token}}, the person's word")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is unknown: one of {', '.join(PRECISIONS)}")
        for name in ("steps", "batch", "prior_batch", "rank", "sampler_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not allowed: give 1 or more")

    @property
    def prompt(self) -> str:
        """The instance prompt with the person's word in it."""
        return self.instance_prompt.format(token=self.token)

    def digest(self) -> str:
        """sha256 of the configuration."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def dreambooth_64() -> PersonalizationConfig:
    """DreamBooth for the embedded 64 px models: about 45 s of one core a person.

    Chosen on development identities: 160 falling steps at 5e-4 take the face network's cosine from -0.06 to 0.47 and
    from -0.04 to 0.23, where 100 to 250 constant ones at 1e-4 to 1e-3 leave it at 0. Prior preservation is off: the
    embedded models' own faces are so blurry that training on them too leaves the cosine at -0.04. Guidance changed
    nothing.
    """
    return PersonalizationConfig(steps=160, learning_rate=5e-4, prior_weight=0.0, guidance=1.0, sampler_steps=15)


def lora_textual_inversion_64() -> PersonalizationConfig:
    """Low-rank weights of the U-Net and a new token, for the embedded 64 px models."""
    return PersonalizationConfig(
        method="lora_textual_inversion", token="<person>", learning_rate=1e-3, sampler_steps=15
    )


def textual_inversion_64() -> PersonalizationConfig:
    """A new token alone, for the embedded 64 px models."""
    return replace(lora_textual_inversion_64(), method="textual_inversion", steps=400)


def dreambooth_512() -> PersonalizationConfig:
    """DreamBooth as in the paper's protocol, for Stable Diffusion on a GPU."""
    return PersonalizationConfig(batch=2, prior_batch=2, steps=1000, learning_rate=5e-6, class_images=200, guidance=7.5)


ATTACKS: tuple[str, ...] = ("dreambooth", "lora_textual_inversion", "textual_inversion")
PERSONALIZATION_RECIPES: dict[str, Callable[[], PersonalizationConfig]] = {
    "dreambooth_64": dreambooth_64,
    "lora_textual_inversion_64": lora_textual_inversion_64,
    "textual_inversion_64": textual_inversion_64,
    "dreambooth_512": dreambooth_512,
}


def personalization_recipe(name: str, **changes: Any) -> PersonalizationConfig:
    """Returns a named attack with some fields changed.

    Raises:
        ValueError: if there is no recipe of that name.
    """
    if name not in PERSONALIZATION_RECIPES:
        raise ValueError(f"personalisation recipe {name!r} is unknown: one of {', '.join(PERSONALIZATION_RECIPES)}")
    return replace(PERSONALIZATION_RECIPES[name](), **changes)

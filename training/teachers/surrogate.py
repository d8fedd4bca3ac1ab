"""A surrogate: a trainable copy of a frozen model's U-Net that learns the person on the photos, as an attacker would.

The copy is in float32 whatever the frozen model's type. The autoencoder and the text encoder stay frozen, and the
frozen model itself is never written to.

N photos, B of them in a training step, C latent channels, h and w latent sides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.devices import teacher_autocast
from rid.training.teachers.options import SurrogateOptions
from rid.training.teachers.pgd import encode
from rid.training.teachers.photos import Photos

WEIGHT_DECAY = 1e-2
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Lesson:
    """One stretch of fine-tuning.

    Attributes:
        purpose: keeps the draws of different uses of a surrogate apart.
        first_step: number of steps of this purpose before it; later draws continue where earlier ones ended.
        steps: optimiser steps.
    """

    purpose: str
    first_step: int
    steps: int


class Surrogate:
    """The copy, and how it is fine-tuned.

    Attributes:
        model: as the frozen model, with the copy as its denoiser; its weights require no gradient between lessons.
    """

    def __init__(self, frozen: FrozenDiffusion, options: SurrogateOptions, seed: int) -> None:
        self._frozen, self._options, self._seed = frozen, options, seed
        unet = copy.deepcopy(frozen.unet).float().requires_grad_(False)
        self.model = replace(frozen, unet=unet, prompt_states=frozen.prompt_states.float())

    def fine_tune(self, photos: Photos, image: Tensor, lesson: Lesson) -> None:
        """Trains on the U-Net's own target, DreamBooth's loss without its prior-preservation term.

        The optimiser is fresh each time, so that the weights are all there is to keep. Photos take turns.

        Args:
            photos: the set.
            image: (N, 3, S, S) in [-1, 1], the set as the surrogate gets to see it.
            lesson: how long.
        """
        unet = self.model.unet.requires_grad_(True).train()
        optimiser = torch.optim.AdamW(unet.parameters(), lr=self._options.learning_rate, weight_decay=WEIGHT_DECAY)
        batch = min(self._options.training_batch, len(photos))
        for step in range(lesson.first_step, lesson.first_step + lesson.steps):
            rows = [(step * batch + i) % len(photos) for i in range(batch)]
            loss = self._loss(photos, image, rows, step, lesson.purpose)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        unet.requires_grad_(False).eval()

    def weights(self) -> dict[str, Tensor]:
        """Returns a copy of the U-Net's weights on the CPU."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.model.unet.state_dict().items()}

    def load(self, weights: Weights) -> None:
        """Takes over what `weights` returned."""
        self.model.unet.load_state_dict(dict(weights))

    def _loss(self, photos: Photos, image: Tensor, rows: list[int], step: int, purpose: str) -> Tensor:
        """Returns the mean squared error of the U-Net's output at one draw of t and n a photo."""
        noise = photos.noise(self._seed, purpose, step, rows)
        with torch.no_grad():
            latents = encode(self._frozen, image[rows], noise)  # (B, C, h, w)
        schedule = self.model.schedule
        timesteps = noise.integers(0, len(schedule.abar)).to(latents.device)  # (B,)
        drawn = noise.normal(self.model.latent_shape).to(latents)  # (B, C, h, w)
        with teacher_autocast(latents.device):
            output = self.model.output(schedule.add_noise(latents, drawn, timesteps), timesteps)  # (B, C, h, w)
        return torch.nn.functional.mse_loss(output.float(), schedule.training_target(latents, drawn, timesteps))


def packed_weights(weights: list[Weights]) -> dict[str, Tensor]:
    """Names the weights of several surrogates apart, for a checkpoint."""
    return {f"{index}.{name}": value for index, part in enumerate(weights) for name, value in part.items()}


def unpacked_weights(packed: Mapping[str, Tensor], count: int) -> list[Weights]:
    """Returns what `packed_weights` was given."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in packed.items():
        index, _, own = name.partition(".")
        parts[int(index)][own] = value
    return list(parts)

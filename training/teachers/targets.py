"""Moving a photo's latents: towards those of a target picture, or away from its own.

N photos, C latent channels, h and w latent sides, S side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.pgd import Sample, encode, encode_clean
from rid.training.teachers.photos import Photos

PERIOD = 16  # pixels at native resolution: two cells of an f=8 autoencoder


class LatentDisplacement:
    """Targets of each model's latents: where they should go, or what they should leave.

    Attributes:
        towards: whether `references` are approached.
        references: a model's (1, C, h, w) target latents, or its (N, C, h, w) latents of the clean photos.
    """

    def __init__(self, models: Sequence[FrozenDiffusion], photos: Photos, target: str, batch: int) -> None:
        self.towards = target != "none"
        self.references = [
            encode_target(model, target) if self.towards else encode_clean(model, photos, batch) for model in models
        ]

    def __call__(self, sample: Sample) -> Tensor:
        """Returns (B,) values to be maximised: the mean squared distance, negative if the reference is a target."""
        reference = self.references[sample.index]
        reference = reference if self.towards else reference[list(sample.rows)]  # (1 or B, C, h, w)
        distance = (sample.latents - reference).square().mean(dim=(1, 2, 3))  # (B,)
        return -distance if self.towards else distance


@torch.no_grad()
def encode_target(model: FrozenDiffusion, target: str) -> Tensor:
    """Returns the (1, C, h, w) latents of a target picture at the model's native resolution."""
    return encode(model, target_picture(target, model.native_resolution).to(model.device), None)


def target_picture(target: str, side: int) -> Tensor:
    """Returns a (1, 3, side, side) picture in [-1, 1]: "grey", or "texture", a hard black and white pattern.

    The texture is two diagonal waves multiplied and cut to black and white: high contrast that repeats everywhere, as
    Mist asks of a target.
    """
    if target == "grey":
        return torch.zeros(1, 3, side, side)
    place = torch.arange(side) * (2 * torch.pi / PERIOD)
    waves = torch.sin(place[:, None] + place[None, :]) * torch.sin(place[:, None] - place[None, :])  # (side, side)
    return torch.where(waves >= 0, 1.0, -1.0).expand(1, 3, side, side)

"""SimAC: ASPL at the time steps where the gradient says most, with a term on the U-Net's features.

Wang et al., "SimAC: A Simple Anti-Customization Method for Protecting Face Privacy against Text-to-Image Synthesis of
Diffusion Models" (CVPR 2024, arXiv 2312.07865). Before the ascent, a greedy search: of a few random time steps the one
with the smallest gradient in the photo is dropped together with its neighbours, until few are left. The ascended value
is || eps_theta - n ||^2 plus the squared distance of the features of the last decoder block, layers 9-11 of Stable
Diffusion, between the perturbed and the clean photo at the same t and n. The search uses the frozen models.

N photos, B of them in a batch, T time steps, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.noise import StepNoise
from rid.training.teachers.advdm import diffusion_loss
from rid.training.teachers.aspl import Aspl
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.options import SimacOptions
from rid.training.teachers.pgd import Sample, encode_clean
from rid.training.teachers.photos import Photos
from rid.training.teachers.timestep_search import informative_timesteps

SEARCHED = "timesteps."


class Simac(Aspl):
    """Ascends diffusion loss and feature distance at chosen time steps.

    Attributes:
        allowed: for each model, (N, T) bool, the time steps a photo is attacked at.
        clean: for each model, (N, C, h, w) latents of the clean photos.
    """

    posterior_mean = True  # so that clean and perturbed latents differ by the perturbation alone

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        super().__init__(models, config)
        self.simac = cast(SimacOptions, config.options)
        self.allowed: list[Tensor] = []

    def prepare(self, photos: Photos) -> None:
        """Encodes the clean photos."""
        self.clean = [encode_clean(model, photos, self.config.batch) for model in self.frozen]

    def begin(self, photos: Photos) -> None:
        """Searches each photo's time steps."""
        self.allowed = [
            informative_timesteps(model, photos, self.simac, self.config.batch, self.config.seed)
            for model in self.frozen
        ]

    def timesteps(self, index: int, rows: Sequence[int], noise: StepNoise) -> Tensor:
        """Draws (B,) of the allowed time steps."""
        return pick_allowed(self.allowed[index][list(rows)], noise.uniform())

    def objective(self, sample: Sample) -> Tensor:
        """Returns the (B,) diffusion losses plus weighted feature distances."""
        schedule, t = sample.model.schedule, sample.timesteps
        with decoder_features(sample.model.unet) as features:
            loss = diffusion_loss(sample.model, sample.latents, t, sample.noise)  # (B,)
        if self.simac.feature_weight == 0:
            return loss
        clean = self.clean[sample.index][list(sample.rows)]  # (B, C, h, w)
        with torch.no_grad(), decoder_features(sample.model.unet) as references:
            sample.model.predict_noise(schedule.add_noise(clean, sample.noise, t), t)
        squares = [(one.float() - other.float()).square() for one, other in zip(features, references, strict=True)]
        distance = torch.stack([square.mean(dim=(1, 2, 3)) for square in squares]).mean(dim=0)  # (B,)
        return loss + self.simac.feature_weight * distance

    def state(self) -> dict[str, Tensor]:
        """Returns the surrogates' weights and the time steps."""
        return super().state() | {f"{SEARCHED}{index}": value for index, value in enumerate(self.allowed)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes both back."""
        self.allowed = [state[f"{SEARCHED}{index}"] for index in range(len(self.frozen))]
        super().restore({name: value for name, value in state.items() if not name.startswith(SEARCHED)})


def pick_allowed(allowed: Tensor, uniform: Tensor) -> Tensor:
    """Returns (B,) time steps: of each photo's (B, T) allowed ones, the one that a number in [0, 1) points at."""
    counts = allowed.sum(dim=1)  # (B,)
    wanted = (uniform * counts).long().clamp(max=counts - 1)  # (B,)
    return (allowed.cumsum(dim=1) > wanted[:, None]).float().argmax(dim=1)  # the first place where the count is passed


@contextmanager
def decoder_features(unet: Any) -> Iterator[list[Tensor]]:
    """Collects the (B, channels, h, w) outputs of the last decoder block's residual layers while it is open."""
    features: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: features.append(output))
        for layer in unet.up_blocks[-1].resnets
    ]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()

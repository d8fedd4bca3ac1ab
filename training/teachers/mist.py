"""Mist: the diffusion loss of AdvDM and the latents' way to a texture, fused.

Liang and Wu, "Mist: Towards Improved Adversarial Examples for Diffusion Models" (arXiv 2305.12683):
maximise w L_semantic - L_textural, with L_semantic = || eps_theta(z_t, t, c) - n ||^2 and
L_textural = || E(x') - E(target) ||^2. Both are means over elements here, so w is about 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.advdm import AdvDM
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.options import MistOptions
from rid.training.teachers.pgd import Sample
from rid.training.teachers.photos import Photos
from rid.training.teachers.targets import LatentDisplacement


class Mist(AdvDM):
    """Ascends the diffusion loss while it moves the latents."""

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        super().__init__(models, config)
        self.options = cast(MistOptions, config.options)
        self.random_start = self.options.target == "none"  # the distance from a photo's own latents is flat at zero

    def prepare(self, photos: Photos) -> None:
        """Encodes the target, or the clean photos."""
        self.displacement = LatentDisplacement(self.frozen, photos, self.options.target, self.config.batch)

    def objective(self, sample: Sample) -> Tensor:
        """Returns the (B,) fused objectives."""
        textural = self.displacement(sample)
        if self.options.semantic_weight == 0:
            return textural
        return self.options.semantic_weight * super().objective(sample) + textural

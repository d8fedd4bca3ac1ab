"""PhotoGuard's encoder attack: move E(x') to a target latent, or away from E(x). The U-Net is not used.

Salman et al., "Raising the Cost of Malicious AI-Powered Image Editing" (ICML 2023, arXiv 2302.06588), eq. 4:
delta = argmin || E(x + delta) - z_target ||^2, with a grey picture as the usual target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.options import EncoderOptions
from rid.training.teachers.pgd import Sample, Teacher
from rid.training.teachers.photos import Photos
from rid.training.teachers.targets import LatentDisplacement


class EncoderAttack(Teacher):
    """Moves latents. Untargeted it starts at random: the distance from a photo's own latents is flat at zero."""

    posterior_mean = True

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        super().__init__(models, config)
        self.target = cast(EncoderOptions, config.options).target
        self.random_start = self.target == "none"

    def prepare(self, photos: Photos) -> None:
        """Encodes the target, or the clean photos."""
        self.displacement = LatentDisplacement(self.frozen, photos, self.target, self.config.batch)

    def objective(self, sample: Sample) -> Tensor:
        """Returns the (B,) displacements."""
        return self.displacement(sample)

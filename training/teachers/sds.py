"""Diff-Protect: the score-distillation gradient w(t) (eps_theta - n), without the U-Net's Jacobian.

Xue et al., "Toward effective protection against diffusion-based mimicry through score distillation" (ICLR 2024, arXiv
2311.12832). SDS(-) descends it and makes a photo easier for the model, which blurs what is generated; SDS(+) ascends
it, which is the direction of Adv-SDS (RID, eq. 9). No graph of the U-Net is kept: half the time and memory of AdvDM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rid.training.adv_sds import adv_sds_weight
from rid.training.teachers.pgd import Sample, Teacher


class SdsPlus(Teacher):
    """Ascends the score-distillation gradient."""

    sign = 1.0

    def objective(self, sample: Sample) -> Tensor:
        """Returns (B,) values whose gradient in z_t is w(t) (eps_theta - n) over the number of elements."""
        schedule = sample.model.schedule
        noisy = schedule.add_noise(sample.latents, sample.noise, sample.timesteps)  # (B, C, h, w)
        with torch.no_grad():
            predicted = sample.model.predict_noise(noisy, sample.timesteps).to(noisy.dtype)  # (B, C, h, w)
            weight = adv_sds_weight(schedule.at(sample.timesteps)).to(noisy.dtype)  # (B, 1, 1, 1)
            score = self.sign * weight * (predicted - sample.noise)  # (B, C, h, w)
        return (noisy * score).mean(dim=(1, 2, 3))


class SdsMinus(SdsPlus):
    """Descends the score-distillation gradient."""

    sign = -1.0

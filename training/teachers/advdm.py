"""AdvDM: maximise || eps_theta(z_t, t, c) - n ||^2 with the gradient through the U-Net.

Liang et al., "Adversarial Example Does Good: Preventing Painting Imitation from Diffusion Models via Adversarial
Examples" (ICML 2023, arXiv 2302.04578), eq. 6-8: one draw of t and n a step, sign steps. With the core's momentum it is
what RID's own pairs are made with.

B batch, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.pgd import Sample, Teacher


class AdvDM(Teacher):
    """Ascends the diffusion loss."""

    def objective(self, sample: Sample) -> Tensor:
        """Returns the (B,) diffusion losses."""
        return diffusion_loss(sample.model, sample.latents, sample.timesteps, sample.noise)


def diffusion_loss(model: FrozenDiffusion, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """|| eps_theta(z_t, t, c) - n ||^2, a (B,) mean over the elements of (B, C, h, w)."""
    noisy = model.schedule.add_noise(latents, noise, timesteps)  # (B, C, h, w)
    error = model.predict_noise(noisy, timesteps).to(noise.dtype) - noise  # (B, C, h, w)
    return error.square().mean(dim=(1, 2, 3))

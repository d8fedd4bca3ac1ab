"""The ensembles that the training step is measured with. All models of one ensemble share an autoencoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from rid.models.defender import SIZES, DefenderSize
from rid.models.frozen_diffusion import FrozenDiffusion, NoiseSchedule, load_frozen_diffusion
from rid.training.embedded.architecture import build_noise_scheduler

EMBEDDED = Path(__file__).parents[1] / "models" / "weights" / "embedded-64"
QUARTER_SIDE = 128

# Beside the quarter-width models it takes the share of a step that rid-512 takes beside Stable Diffusion.
QUARTER_DEFENDER = DefenderSize(working_resolution=QUARTER_SIDE, patch=8, width=192, depth=7, heads=3)


def shipped(count: int, device: torch.device) -> tuple[list[FrozenDiffusion], DefenderSize]:
    """Copies of the embedded pipeline; equal weights do not change a cost. Its encoder is small beside its U-Net."""
    model = load_frozen_diffusion(str(EMBEDDED), device=device)
    return [replace(model, name=f"copy {index}") for index in range(count)], SIZES["faces-64"]


def stable_diffusion(
    count: int, device: torch.device, *, width: int = 4, side: int = QUARTER_SIDE
) -> tuple[list[FrozenDiffusion], DefenderSize]:
    """Stable Diffusion 1.x's architecture with random weights, its channels over `width`, at `side` pixels.

    A cost does not depend on the weights, and the encoder's, the U-Net's and the defender's proportions stay.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(channels // width for channels in (128, 256, 512, 512)),
        layers_per_block=2,
        latent_channels=4,
        sample_size=side,
    )
    unets = [
        UNet2DConditionModel(
            sample_size=side // 8,
            block_out_channels=tuple(channels // width for channels in (320, 640, 1280, 1280)),
            cross_attention_dim=768 // width,
            attention_head_dim=8,
            norm_num_groups=16,
        )
        for _ in range(count)
    ]
    for module in (vae, *unets):
        module.eval().requires_grad_(False).to(device)
    models = [
        FrozenDiffusion(
            name=f"model {index}",
            vae=vae,
            unet=unet,
            schedule=NoiseSchedule(build_noise_scheduler("epsilon").alphas_cumprod.double().to(device), "epsilon"),
            prompt_states=torch.randn(1, 77, 768 // width, device=device),
            scaling_factor=0.18215,
            shift_factor=0.0,
            native_resolution=side,
            encoder_digest="one",
            text_digest=f"{index}",
        )
        for index, unet in enumerate(unets)
    ]
    return models, QUARTER_DEFENDER if side == QUARTER_SIDE else SIZES["rid-512"]


ENSEMBLES = {
    "shipped": shipped,
    "sd-quarter": stable_diffusion,
    "sd": lambda count, device: stable_diffusion(count, device, width=1, side=512),  # for a GPU
}

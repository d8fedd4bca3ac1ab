"""Small real autoencoders in the diffusers layout, of random seeded weights, and the four real ones where they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

REAL = ("sd1", "sdxl", "sd3", "flux1")


def tiny_autoencoder(*, seed: int = 0, **settings: float) -> AutoencoderTiny:
    """An AutoencoderTiny with 4 latent channels that halves sides three times."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=4,
        **settings,
    ).eval()


def kl_autoencoder(*, seed: int = 0, **settings: float) -> AutoencoderKL:
    """An AutoencoderKL with 6 latent channels that halves sides once."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=6,
        **settings,
    ).eval()


def save_spaces(folder: Path, count: int = 2) -> list[Path]:
    """Saves `count` tiny autoencoders of different weights and returns their folders."""
    folders = [folder / f"space-{seed}" for seed in range(count)]
    for seed, place in enumerate(folders):
        tiny_autoencoder(seed=seed).save_pretrained(place)
    return folders


def real_spaces() -> Path:
    """The folder of the four real spaces; the test is skipped where RID_LATENT_SPACES names none."""
    folder = Path(os.environ.get("RID_LATENT_SPACES", "/nowhere"))
    if not all((folder / name / "config.json").is_file() for name in REAL):
        pytest.skip("RID_LATENT_SPACES names no folder with sd1, sdxl, sd3 and flux1")
    return folder

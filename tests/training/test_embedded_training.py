"""The trainings of the embedded model."""

import subprocess
import sys

import pytest
import torch
from quick_pipelines import photo_crops

from rid.training.embedded.architecture import SIZES, build_autoencoder
from rid.training.embedded.train_autoencoder import held_out_psnr, train_autoencoder


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_decoder_is_trained_alone_and_latents_stay(precision: str) -> None:
    torch.manual_seed(0)
    vae, pixels = build_autoencoder(SIZES["tiny-64"]), photo_crops(16)
    before = {name: weights.clone() for name, weights in vae.state_dict().items()}
    factor, psnr = vae.config.scaling_factor, held_out_psnr(vae, pixels)
    settings = {"steps": 30, "batch": 4, "learning_rate": 3e-3, "seed": 0, "on_step": lambda record: None}
    train_autoencoder(vae, pixels, precision=precision, decoder_only=True, **settings)
    changed = {name for name, weights in vae.state_dict().items() if not torch.equal(weights, before[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert vae.config.scaling_factor == factor
    assert held_out_psnr(vae, pixels) > psnr + 1


def test_a_decoder_without_an_autoencoder_is_refused() -> None:
    command = [sys.executable, "-m", "rid.training.embedded.train_autoencoder", "--photos", "x", "--out", "y"]
    done = subprocess.run([*command, "--decoder-only"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give it with --init" in done.stderr

from pathlib import Path

import numpy as np
import pytest
import torch
from quick_pipelines import photo_crops

from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from rid.training.embedded.architecture import SIZES, build_noise_scheduler, build_text_encoder, build_tokenizer
from rid.training.evaluation.attackers import purification, upscaling
from rid.training.evaluation.attackers.purification import purify, purify_tiles
from rid.training.evaluation.attackers.upscaling import NOISE_SIGMA, load_upscaler, noisy_small, upscale, upscale_with

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"


@pytest.fixture(scope="module")
def model() -> FrozenDiffusion:
    return load_frozen_diffusion(str(WEIGHTS / "embedded-64"))


@pytest.fixture(scope="module")
def upscaler_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh upscaling pipeline of few weights, saved by diffusers: f=4 autoencoder, 4 + 3 channels, noise classes."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )

    folder = tmp_path_factory.mktemp("upscaler")
    size = SIZES["tiny-64"]
    tokenizer = build_tokenizer(folder / "words")
    torch.manual_seed(0)
    pipeline = StableDiffusionUpscalePipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.08333,
        ),
        unet=UNet2DConditionModel(
            sample_size=32,
            in_channels=7,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=size.text_width,
            attention_head_dim=4,
            norm_num_groups=8,
            num_class_embeds=1000,
        ),
        text_encoder=build_text_encoder(size, tokenizer),
        tokenizer=tokenizer,
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=DDIMScheduler.from_config(build_noise_scheduler("v_prediction").config),
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def test_photos_get_noise_before_they_are_made_smaller() -> None:
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    small = noisy_small(grey, seed=1)
    assert small.shape == (2, 32, 32, 3)
    assert np.std(small.astype(float)) == pytest.approx(NOISE_SIGMA / 2, rel=0.05), "four values of noise are averaged"


def test_tiles_cover_larger_photos_and_overlap_by_half() -> None:
    for large, side in ((64, 64), (96, 64), (100, 64), (128, 64), (1024, 512)):
        starts = purification._starts(large, side)
        assert starts[0] == 0 and starts[-1] == large - side
        assert all(0 < gap <= side / 2 for gap in np.diff(starts))


def test_one_tile_is_purification_and_seams_are_averaged(model: FrozenDiffusion) -> None:
    photos = photo_crops(2, seed=3)
    whole = purify_tiles(model, photos, seed=5, strength=0.1, steps=2)
    assert np.array_equal(whole, purify(model, photos, seed=5, strength=0.1, steps=2))
    wide = photo_crops(1, side=96, seed=4)
    tiled = purify_tiles(model, wide, seed=5, strength=0.1, steps=2)
    corner = purify(model, np.ascontiguousarray(wide[:, :64, :64]), seed=5, strength=0.1, steps=2)
    assert tiled.shape == wide.shape
    assert np.array_equal(tiled[:, :32, :32], corner[:, :32, :32]), "one tile alone reaches there"
    assert not np.array_equal(tiled[:, 32:64, 32:64], corner[:, 32:64, 32:64])


def test_a_text_to_image_model_redraws_what_noise_drowned(model: FrozenDiffusion) -> None:
    photos = photo_crops(4, seed=9)
    redrawn = upscale(model, photos, seed=2)
    assert redrawn.shape == photos.shape and redrawn.dtype == np.uint8
    assert np.array_equal(redrawn, upscale(model, photos, seed=2))
    assert not np.array_equal(redrawn, upscale(model, photos, seed=3))
    assert np.corrcoef(redrawn.ravel(), photos.ravel())[0, 1] > 0.8
    signs = np.kron(np.random.default_rng(0).choice([-16, 16], (4, 64, 64, 1)), np.ones((1, 1, 1, 3), int))
    protected = np.clip(photos.astype(int) + signs, 0, 255).astype(np.uint8)
    left = np.abs(upscale(model, protected, seed=2).astype(int) - redrawn).mean()
    assert left < 0.5 * np.abs(protected.astype(int) - photos).mean()


def test_a_diffusers_upscaler_is_loaded_from_its_folder_and_used_photo_by_photo(upscaler_folder: Path) -> None:
    upscaler = load_upscaler(str(upscaler_folder))
    photos = photo_crops(2, seed=6)
    redrawn = upscale_with(upscaler, photos, seed=4, steps=2)
    assert redrawn.shape == photos.shape and redrawn.dtype == np.uint8
    assert np.array_equal(redrawn, upscale_with(upscaler, photos, seed=4, steps=2))
    sizes: list[tuple[int, ...]] = []
    hook = upscaler.vae.decoder.register_forward_hook(lambda _, __, image: sizes.append(tuple(image.shape)))
    other = upscale_with(upscaler, photos[:1], seed=4, steps=2)
    hook.remove()
    assert sizes == [(1, 3, 128, 128)], "four times the small side"
    assert np.array_equal(upscaling.noisy_small(photos[:1], 4), upscaling.noisy_small(photos, 4)[:1])
    assert np.array_equal(other, redrawn[:1]), "a photo does not depend on its neighbours"


def test_what_is_no_upscaler_gives_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a StableDiffusionPipeline, no StableDiffusionUpscalePipeline"):
        load_upscaler(str(WEIGHTS / "embedded-64"))
    with pytest.raises(ValueError, match="could not be loaded"):
        load_upscaler(str(tmp_path))

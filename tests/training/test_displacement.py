from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quick_pipelines import photo_crops
from training_runs import CONFIG, make_batch, random_model, small_photo_set

from rid.models.defender import SIZES, Defender
from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from rid.training.batches import pixels_to_signed
from rid.training.displacement import displacement_loss
from rid.training.losses import training_losses


@pytest.fixture(scope="module")
def models(pipelines: dict[str, Path]) -> list[FrozenDiffusion]:
    return [load_frozen_diffusion(str(pipelines[name])) for name in ("epsilon", "v_prediction")]


def test_it_is_minus_the_mean_squared_distance_of_the_latents(models: list[FrozenDiffusion]) -> None:
    image = pixels_to_signed(photo_crops(2, seed=1))
    protected = (image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    moved = models[0].encode(protected) - models[0].encode(image)
    assert displacement_loss(models[:1], image, protected) == pytest.approx(-moved.square().mean().item(), rel=1e-5)
    assert displacement_loss(models, image, image) == 0


def test_descending_it_moves_the_latents_away(models: list[FrozenDiffusion]) -> None:
    image = pixels_to_signed(photo_crops(2, seed=2))
    delta = 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    delta.requires_grad_(True)
    loss = displacement_loss(models, image, image + delta)
    (gradient,) = torch.autograd.grad(loss, delta)
    further = displacement_loss(models, image, image + delta.detach() - 0.02 * gradient.sign())
    assert further < 2 * loss < 0


def test_zero_is_its_saddle_point(models: list[FrozenDiffusion]) -> None:
    image = pixels_to_signed(photo_crops(1, seed=3)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(displacement_loss(models[:1], image.detach(), image), image)
    assert gradient.abs().max() == 0


def test_models_with_one_encoding_count_once(models: list[FrozenDiffusion]) -> None:
    image = pixels_to_signed(photo_crops(1, seed=4))
    alone = displacement_loss(models[:1], image, image * 0.9)
    assert displacement_loss([models[0], models[0]], image, image * 0.9) == alone


def test_photos_are_compared_after_one_and_the_same_transformation() -> None:
    """A fresh network changes nothing; only what a platform does to the photo would be left."""
    config = replace(CONFIG, adv_sds_weight=0.0, displacement_weight=1.0, transformed_share=1.0)
    losses = training_losses(
        Defender(SIZES[CONFIG.size]), [random_model()], make_batch(small_photo_set(), config, 0), config, 0
    )
    assert losses.displacement == 0

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from quick_pipelines import photo_crops
from training_runs import CONFIG, make_batch, random_model, small_photo_set

from rid.models.defender import SIZES, Defender
from rid.training.batches import pixels_to_signed
from rid.training.differentiable_jpeg import (
    CHROMA_TABLE,
    LUMA_TABLE,
    dct_matrix,
    jpeg_round_trip,
    round_with_gradient,
    scaled_table,
)
from rid.training.losses import training_losses
from rid.training.noise import StepNoise
from rid.training.transformations import Transformations, draw_transformations, transform


def pillow_round_trip(pixels: np.ndarray, quality: int) -> tuple[np.ndarray, dict[int, list[int]]]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    with Image.open(buffer) as opened:
        return np.asarray(opened.convert("RGB")), dict(opened.quantization)


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize("side", [64, 50])
def test_the_round_trip_is_what_a_real_coder_does(quality: int, side: int) -> None:
    pixels = photo_crops(4, side=side)
    mine = jpeg_round_trip(pixels_to_signed(pixels), torch.full((4,), quality))
    levels = (127.5 * (mine + 1)).permute(0, 2, 3, 1).numpy()
    real = np.stack([pillow_round_trip(photo, quality)[0] for photo in pixels]).astype(float)
    assert np.abs(levels - levels.round()).max() < 1e-3
    assert np.abs(levels - real).mean() < 1.2
    assert np.abs(levels - real).mean() < 0.45 * np.abs(real - pixels).mean()


@pytest.mark.parametrize("quality", [1, 49, 50, 75, 100])
def test_the_tables_are_those_of_real_files(quality: int) -> None:
    _, tables = pillow_round_trip(photo_crops(1)[0], quality)
    for table, mine in ((tables[0], LUMA_TABLE), (tables[1], CHROMA_TABLE)):
        assert scaled_table(mine, torch.tensor([quality])).flatten().int().tolist() == list(table)


def test_the_transform_is_orthonormal_and_its_first_row_is_the_mean() -> None:
    transform_matrix = dct_matrix()
    torch.testing.assert_close(transform_matrix @ transform_matrix.T, torch.eye(8), atol=1e-6, rtol=0)
    flat = transform_matrix @ torch.full((8, 8), 3.0) @ transform_matrix.T
    assert flat[0, 0].item() == pytest.approx(24.0)
    assert flat.abs().sum().item() == pytest.approx(24.0, abs=1e-4)


def test_rounding_passes_more_gradient_the_further_a_value_is_from_the_grid() -> None:
    values = torch.tensor([0.0, 0.1, 0.49, 1.5001, -2.2], requires_grad=True)
    rounded = round_with_gradient(values)
    rounded.sum().backward()
    assert rounded.tolist() == [0, 0, 0, 2, -2]
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([0.0, 0.03, 0.7203, 0.7494, 0.12]), atol=1e-3, rtol=0)


def test_fine_noise_is_lost_and_coarse_structure_survives() -> None:
    """The lesson for a defender; the gain of single-pixel noise at quality 75 is near what real coders leave."""
    photos = pixels_to_signed(photo_crops(4))
    torch.manual_seed(0)
    fine = torch.randn(4, 3, 64, 64).sign()
    coarse = torch.nn.functional.interpolate(torch.randn(4, 1, 8, 8).sign(), size=(64, 64)).expand(-1, 3, -1, -1)
    quality = torch.full((4,), 75)
    gains = []
    for pattern in (fine, coarse):
        change = jpeg_round_trip(photos + 6 / 127.5 * pattern, quality) - jpeg_round_trip(photos, quality)
        gains.append(float((change * pattern).mean() / (6 / 127.5)))
    assert gains[0] < 0.3
    assert gains[1] > 0.8


def drawn(**changes: float) -> Transformations:
    config = replace(CONFIG, **{"transformed_share": 1.0, **changes})
    return draw_transformations(config, StepNoise(0, 0, range(64)))


def test_draws_stay_within_the_recipe() -> None:
    some = drawn(transformed_share=0.5, resize_min=0.7, jpeg_quality_min=60, jpeg_quality_max=62)
    assert 15 < int(some.transformed.sum()) < 49
    assert 0.7 <= float(some.scale.min()) < float(some.scale.max()) <= 1
    assert set(some.quality.tolist()) == {60, 61, 62}
    assert not draw_transformations(CONFIG, StepNoise(0, 0, range(64))).transformed.any()


def test_a_photo_that_is_not_chosen_stays_as_it_is_and_others_carry_a_gradient() -> None:
    image = pixels_to_signed(photo_crops(2)).requires_grad_(True)
    both = Transformations(torch.tensor([False, True]), torch.tensor([0.6, 0.6]), torch.tensor([80, 80]))
    out = transform(image, both)
    assert torch.equal(out[0], image[0])
    assert out.shape == image.shape and float(out.detach().abs().max()) <= 1
    assert 0.01 < float((out[1] - image[1]).detach().abs().mean()) < 0.2
    out[1].square().sum().backward()
    assert image.grad is not None and float(image.grad[1].abs().sum()) > 0
    assert bool(torch.isfinite(image.grad).all())


def test_transformations_are_off_by_default_and_change_the_loss_where_they_are_on() -> None:
    torch.manual_seed(0)
    defender, models = Defender(SIZES[CONFIG.size]), [random_model()]
    batch = make_batch(small_photo_set(), CONFIG, 0)
    off = training_losses(defender, models, batch, CONFIG, 0)
    on = training_losses(defender, models, batch, replace(CONFIG, transformed_share=1.0), 0)
    assert off.adv_sds != on.adv_sds
    on.adv_sds.backward()
    assert defender.linear.weight.grad is not None and float(defender.linear.weight.grad.abs().sum()) > 0

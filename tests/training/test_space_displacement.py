from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_pipelines import photo_crops
from training_runs import CONFIG

from rid.models.latent_space import LatentSpace, load_latent_space
from rid.models.networks import SIZES, make_network
from rid.training.batches import draw_batch, pixels_to_signed
from rid.training.losses import training_losses
from rid.training.noise import StepNoise
from rid.training.photo_set import PhotoSet
from rid.training.space_displacement import (
    chosen_targets,
    effort,
    log_displacement,
    picture_change,
    shared_part,
    space_displacement_loss,
    space_targets,
)
from rid.training.trainer import train_defender
from rid.training.views import draw_view, see

SPACES = replace(
    CONFIG,
    size="tiny-conv",
    adv_sds_weight=0.0,
    regression_weight=0.0,
    space_weight=1.0,
    spaces_a_step=1,
    shared_weight=1.0,
    effort_weight=0.05,
    shared_windows=True,
    window_min=16,
    view_side=16,
    precision="float32",
)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> list[LatentSpace]:
    from diffusers import AutoencoderTiny

    folder = tmp_path_factory.mktemp("spaces")
    for index, channels in enumerate((4, 8)):
        torch.manual_seed(index)
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=channels,
        ).save_pretrained(folder / str(index))
    return [load_latent_space(str(folder / name)) for name in ("0", "1")]


def photo_set(count: int = 12) -> PhotoSet:
    pixels = photo_crops(count, seed=4)
    return PhotoSet(pixels, np.zeros(0, np.int64), np.zeros((0, *pixels.shape[1:]), np.int8), 0)


def test_a_step_sees_its_photos_at_one_place_and_scale_and_clean_and_protected_alike() -> None:
    config = replace(SPACES, transformed_share=0.5, blurred_share=0.5)
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sides = set()
    for step in range(40):
        view = draw_view(config, step, StepNoise(0, step, range(4)))
        again = draw_view(config, step, StepNoise(0, step, range(2, 4)))
        assert (view.top, view.left, view.side, view.mirrored) == (again.top, again.left, again.side, again.mirrored)
        assert torch.equal(view.quality[2:], again.quality)  # whatever the micro-batch
        assert torch.equal(see(image, view, 16), see(image.clone(), view, 16))
        assert see(image, view, 16).shape == (4, 3, 16, 16)
        sides.add(view.side)
    assert min(sides) < 12 and 16 in sides and max(sides) > 24


def test_a_view_is_a_part_of_the_square() -> None:
    config = replace(SPACES, view_plain_share=1.0)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    view = draw_view(config, 3, StepNoise(0, 3, range(1)))
    part = image[:, :, view.top : view.top + 16, view.left : view.left + 16]
    assert torch.equal(see(image, view, 16), part.flip(3) if view.mirrored else part)


def test_only_photos_that_were_drawn_are_blurred_or_coded() -> None:
    image = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = replace(SPACES, view_plain_share=1.0, transformed_share=0.5, blurred_share=0.5)
    plain = replace(config, transformed_share=0.0, blurred_share=0.0)
    treated = 0
    for step in range(6):
        view = draw_view(config, step, StepNoise(0, step, range(6)))
        clean = see(image, draw_view(plain, step, StepNoise(0, step, range(6))), 16)
        changed = [not torch.equal(*pair) for pair in zip(see(image, view, 16), clean, strict=True)]
        touched = view.coded | (view.blur > 0)
        assert [bool(one) for one in touched] == changed
        treated += int(touched.sum())
    assert 10 < treated < 36


def test_the_loss_is_minus_the_mean_logarithm_in_units_of_channel_variance(spaces: list[LatentSpace]) -> None:
    image = pixels_to_signed(photo_crops(3, seed=1))[:, :, :32, :32]
    protected = (image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    config = replace(SPACES, view_plain_share=1.0, view_side=32)
    view = draw_view(config, 0, StepNoise(0, 0, range(3)))
    targets = space_targets(spaces, image)
    expected = 0.0
    for target in targets:
        moved = target.space.encode(see(protected, view, 32)) - target.space.encode(see(image, view, 32))
        units = target.space.encode(image).std(dim=(0, 2, 3)).view(-1, 1, 1)
        expected -= ((moved / units).square().mean(dim=(1, 2, 3)) + 1e-4).log().mean().item() / len(targets)
    assert space_displacement_loss(targets, image, protected, view, config).item() == pytest.approx(expected, rel=1e-4)
    assert log_displacement(torch.ones(2, 4, 3, 3)).item() == pytest.approx(0, abs=1e-3)


def test_the_decoded_picture_counts_where_it_is_asked_for(spaces: list[LatentSpace]) -> None:
    image = pixels_to_signed(photo_crops(2, seed=1))[:, :, :32, :32]
    protected = (image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    config = replace(SPACES, view_plain_share=1.0, view_side=32)
    view, targets = draw_view(config, 0, StepNoise(0, 0, range(2))), space_targets(spaces[:1], image)
    without = space_displacement_loss(targets, image, protected, view, config)
    with_it = space_displacement_loss(targets, image, protected, view, replace(config, picture_weight=0.5))
    clean, seen = see(image, view, 32), see(protected, view, 32)
    assert (without - with_it).item() == pytest.approx(
        0.5 * picture_change(spaces[0], spaces[0].encode(seen), clean).item(), rel=1e-4
    )


def test_each_step_draws_some_of_the_spaces(spaces: list[LatentSpace]) -> None:
    targets = space_targets(spaces, torch.rand(2, 3, 16, 16))
    drawn = [chosen_targets(targets, SPACES, step)[0].space.channels for step in range(20)]
    assert set(drawn) == {4, 8}
    assert drawn == [chosen_targets(targets, SPACES, step)[0].space.channels for step in range(20)]
    assert len(chosen_targets(targets, replace(SPACES, spaces_a_step=2), 0)) == 2


def test_effort_is_the_square_of_small_values_and_finite_at_the_end_of_the_tanh() -> None:
    small = torch.full((1, 3, 4, 4), 0.01)
    assert effort(torch.tanh(small)).item() == pytest.approx(1e-4, rel=1e-2)
    assert torch.isfinite(effort(torch.ones(1, 3, 4, 4)))


def test_what_perturbations_share_is_one_for_a_stencil_and_nothing_for_strangers() -> None:
    generator = torch.Generator().manual_seed(0)
    strangers = torch.randn(8, 3, 64, 64, generator=generator)
    stencil = torch.randn(1, 3, 64, 64, generator=generator).expand(8, -1, -1, -1)
    tile = torch.randn(1, 3, 16, 16, generator=generator).repeat(8, 1, 4, 4)
    assert shared_part(strangers).item() == pytest.approx(0, abs=0.02)
    assert shared_part(stencil).item() == pytest.approx(1 - 1 / 8, abs=0.05)
    shifted = torch.stack([pattern.roll((5 * i, 3 * i), (1, 2)) for i, pattern in enumerate(tile)])
    assert shared_part(tile).item() > 1.5 > shared_part(shifted).item()


def test_shared_windows_cut_every_photo_of_a_step_at_one_place() -> None:
    photos = photo_set()
    sides = set()
    for step in range(20):
        drawn = draw_batch(photos, SPACES, step)
        sides.add(drawn.image.shape[-1])
        assert drawn.image.shape[2] == drawn.image.shape[3]
        halves = [draw_batch(photos, SPACES, step, process=i, processes=2).image for i in range(2)]
        assert torch.equal(torch.cat(halves), drawn.image)
    assert len(sides) > 5 and min(sides) >= 16 and max(sides) <= photos.side


def test_a_training_in_spaces_moves_photos_further_and_shares_little(spaces: list[LatentSpace], tmp_path: Path) -> None:
    config = replace(SPACES, steps=60, batch=8, learning_rate=5e-3, warm_up_steps=5, spaces_a_step=2, ema_decay=0.9)
    photos = photo_set()
    seen = [draw_batch(photos, config, 1000 + step).to(torch.device("cpu")) for step in range(4)]
    targets = space_targets(spaces, torch.cat([pixels_to_signed(photos.pixels[:4])]))

    def loss(network: torch.nn.Module) -> float:
        with torch.no_grad():
            return sum(
                training_losses(network, [], batch, config, 1000 + i, targets).spaces.item()
                for i, batch in enumerate(seen)
            ) / len(seen)

    torch.manual_seed(config.seed)
    fresh = loss(make_network(SIZES["tiny-conv"]))
    trained = train_defender(config, photos, [], tmp_path, spaces=spaces)
    assert loss(trained) < fresh - 0.5
    with pytest.raises(ValueError, match=r"holds the checkpoint of another run .*spaces was"):
        train_defender(config, photos, [], tmp_path, spaces=spaces[:1])
    with pytest.raises(ValueError, match="needs at least one latent space"):
        train_defender(config, photos, [], tmp_path / "none")

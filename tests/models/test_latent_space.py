import json
import shutil
from pathlib import Path

import pytest
import torch
from quick_pipelines import photo_crops
from safetensors.torch import load_file, save_file
from small_spaces import REAL, kl_autoencoder, real_spaces, tiny_autoencoder

from rid.models.latent_space import channel_deviation, displacement, load_latent_space, pad_to_multiple, shift
from rid.training.batches import pixels_to_signed

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def photos() -> torch.Tensor:
    """(3, 3, 64, 64) in [-1, 1]."""
    return pixels_to_signed(photo_crops(3))


def test_a_tiny_autoencoder_encodes_as_diffusers_does(tmp_path: Path, photos: torch.Tensor) -> None:
    autoencoder = tiny_autoencoder(scaling_factor=0.5, shift_factor=0.25)
    autoencoder.save_pretrained(tmp_path / "tiny")
    space = load_latent_space(str(tmp_path / "tiny"))
    with torch.no_grad():
        expected = (autoencoder.encode(photos).latents - 0.25) * 0.5
    assert (space.name, space.reduction, space.channels) == ("tiny", 8, 4)
    torch.testing.assert_close(space.encode(photos), expected)


def test_a_posterior_gives_its_mean_shifted_and_scaled(tmp_path: Path, photos: torch.Tensor) -> None:
    autoencoder = kl_autoencoder(scaling_factor=0.36, shift_factor=0.12)
    autoencoder.save_pretrained(tmp_path)
    space = load_latent_space(str(tmp_path), name="kl")
    with torch.no_grad():
        expected = (autoencoder.encode(photos).latent_dist.mean - 0.12) * 0.36
    assert (space.name, space.reduction, space.channels) == ("kl", 2, 6)
    torch.testing.assert_close(space.encode(photos), expected)


@pytest.mark.parametrize("build", [tiny_autoencoder, kl_autoencoder])
def test_decoding_undoes_shift_and_scale(build: object, tmp_path: Path, photos: torch.Tensor) -> None:
    autoencoder = build(scaling_factor=0.5, shift_factor=0.25)  # type: ignore[operator]
    autoencoder.save_pretrained(tmp_path)
    space = load_latent_space(str(tmp_path))
    latents = space.encode(photos)
    with torch.no_grad():
        expected = autoencoder.decode(latents / 0.5 + 0.25).sample
        torch.testing.assert_close(space.decode(latents), expected)


def test_a_pipeline_is_the_space_of_its_vae(tmp_path: Path, photos: torch.Tensor) -> None:
    kl_autoencoder(scaling_factor=0.18).save_pretrained(tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    whole = load_latent_space(str(tmp_path / "pipeline"))
    alone = load_latent_space(str(tmp_path / "pipeline" / "vae"))
    assert (whole.name, alone.name) == ("pipeline", "vae")
    assert whole.digest == alone.digest
    assert torch.equal(whole.encode(photos), alone.encode(photos))


def test_the_model_that_ships_is_a_space(photos: torch.Tensor) -> None:
    shipped = Path(__file__).parents[2] / "models" / "weights" / "embedded-64"
    space = load_latent_space(str(shipped))
    assert space.channels == 16
    assert float((space.decode(space.encode(photos)) - photos).square().mean()) < 0.1  # it is the space of pictures


@pytest.mark.parametrize("shape", [(64, 64), (61, 64), (64, 71), (33, 50)])
def test_odd_sides_are_continued_by_their_last_pixels(shape: tuple[int, int], tmp_path: Path) -> None:
    tiny_autoencoder().save_pretrained(tmp_path)
    space = load_latent_space(str(tmp_path))
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = space.encode(image)
    assert latents.shape == (1, 4, -(-shape[0] // 8), -(-shape[1] // 8))
    padded = pad_to_multiple(image, 8)
    assert torch.equal(padded[..., : shape[0], : shape[1]], image)
    assert torch.equal(padded[..., -1, : shape[1]], image[..., -1, :])
    assert torch.equal(space.encode(padded), latents)


def test_nothing_of_a_space_learns_and_the_image_gets_its_gradient(tmp_path: Path, photos: torch.Tensor) -> None:
    tiny_autoencoder().save_pretrained(tmp_path)
    space = load_latent_space(str(tmp_path))
    assert not any(parameter.requires_grad for parameter in space.autoencoder.parameters())
    image = photos.clone().requires_grad_(True)
    moved = shift(space, image, image + 0.1, channel_deviation(space, photos))
    displacement(moved).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    clean = photos.clone().requires_grad_(True)
    shift(space, clean, photos.clone().requires_grad_(True), channel_deviation(space, photos)).sum().backward()
    assert clean.grad is None


def test_displacement_is_in_units_of_channel_variance(tmp_path: Path, photos: torch.Tensor) -> None:
    tiny_autoencoder().save_pretrained(tmp_path / "one")
    tiny_autoencoder(scaling_factor=3.0).save_pretrained(tmp_path / "scaled")
    found = []
    for name in ("one", "scaled"):
        space = load_latent_space(str(tmp_path / name))
        deviation = channel_deviation(space, photos)
        assert deviation.shape == (4, 1, 1)
        assert displacement(shift(space, photos, photos, deviation)).abs().max() == 0
        found.append(displacement(shift(space, photos, photos.flip(-1), deviation)))
        whitened = (space.encode(photos) - space.encode(photos).mean(dim=(0, 2, 3), keepdim=True)) / deviation
        assert whitened.std(dim=(0, 2, 3)).sub(1).abs().max() < 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)  # the unit takes a space's own scale out


def changed_copy(source: Path, target: Path, tensor: str) -> Path:
    shutil.copytree(source, target)
    weights = load_file(target / WEIGHTS)
    save_file(weights | {tensor: weights[tensor] + 1}, target / WEIGHTS, {"format": "pt"})
    return target


def test_the_encoder_and_the_scaling_decide_the_digest_and_the_decoder_does_not(tmp_path: Path) -> None:
    kl_autoencoder().save_pretrained(tmp_path / "kl")
    kl_autoencoder(scaling_factor=0.5).save_pretrained(tmp_path / "scaled")
    digest = load_latent_space(str(tmp_path / "kl")).digest
    others = {
        tensor: load_latent_space(str(changed_copy(tmp_path / "kl", tmp_path / tensor, tensor))).digest
        for tensor in ("decoder.conv_out.bias", "post_quant_conv.bias", "encoder.conv_out.bias", "quant_conv.bias")
    }
    assert others["decoder.conv_out.bias"] == others["post_quant_conv.bias"] == digest
    scaled = load_latent_space(str(tmp_path / "scaled")).digest
    assert len({digest, others["encoder.conv_out.bias"], others["quant_conv.bias"], scaled}) == 4


def test_weights_may_be_kept_in_another_type(tmp_path: Path, photos: torch.Tensor) -> None:
    tiny_autoencoder().save_pretrained(tmp_path)
    space = load_latent_space(str(tmp_path), dtype=torch.bfloat16)
    assert space.dtype == torch.bfloat16
    latents = space.encode(photos)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, load_latent_space(str(tmp_path)).encode(photos), atol=0.1, rtol=0.1)


def broken(folder: Path, change: str) -> Path:
    tiny_autoencoder().save_pretrained(folder)
    if change == "nothing there":
        shutil.rmtree(folder)
    elif change == "another class":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"_class_name": "UNet2DConditionModel"}))
    elif change == "no JSON":
        (folder / "config.json").write_text("{")
    elif change == "no weights":
        (folder / WEIGHTS).unlink()
    elif change == "cut weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("nothing there", "is no folder with an autoencoder's config.json here"),
        ("another class", "holds a UNet2DConditionModel: a latent space is one of AutoencoderTiny, AutoencoderKL"),
        ("no JSON", "is not JSON"),
        ("no weights", "could not be loaded"),
        ("cut weights", "could not be loaded"),
    ],
)
def test_a_wrong_folder_gives_one_sentence(change: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        load_latent_space(str(broken(tmp_path / "space", change)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_real_spaces_encode_as_diffusers_does(name: str) -> None:
    from diffusers import AutoencoderTiny

    folder = real_spaces() / name
    space = load_latent_space(str(folder))
    autoencoder = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32).eval()
    photos = pixels_to_signed(photo_crops(2, side=128))
    latents = space.encode(photos)
    with torch.no_grad():
        torch.testing.assert_close(latents, autoencoder.encode(photos).latents, atol=1e-4, rtol=1e-4)
    assert latents.shape == (2, 16 if name in ("sd3", "flux1") else 4, 16, 16)
    assert 0.3 < float(channel_deviation(space, photos).mean()) < 2.0
    with torch.no_grad():
        assert float((space.decode(latents) - photos).square().mean()) < 0.05  # it is the space of pictures

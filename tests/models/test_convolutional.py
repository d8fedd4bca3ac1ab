import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_photos import encoded, photograph, pixels_of
from PIL import Image
from random_defenders import photos

from rid.models.budget import BudgetRange
from rid.models.checkpoint import DefenderCard, load_defender, save_defender
from rid.models.convolutional import CONVOLUTIONAL_SIZES, ConvolutionalDefender, ConvolutionalSize, strength
from rid.models.engines import OnnxEngine
from rid.models.networks import SIZES, make_network, read_size
from rid.models.onnx_export import check_onnx, export_onnx
from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector

SIZE = CONVOLUTIONAL_SIZES["tiny-conv"]
CARD = DefenderCard("test", "of a test", BudgetRange(1, 16, 6), "MIT", "a test")


def strong(size: ConvolutionalSize = SIZE) -> ConvolutionalDefender:
    """A fresh network whose last layer is loud: its outputs reach a good part of the budget."""
    torch.manual_seed(0)
    defender = ConvolutionalDefender(size, BudgetRange(1, 16, 6)).eval()
    with torch.no_grad():
        defender.pixels.weight.mul_(20)
    return defender


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(strong(), path)
    return path.read_bytes()


def test_perturbations_stay_within_the_budget_at_any_size() -> None:
    defender = strong()
    for height, width in ((32, 32), (64, 96), (160, 32)):
        image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.no_grad():
            levels = defender(image, torch.tensor([2.0, 16.0]))
        assert levels.shape == image.shape
        assert 0.2 * 2 < levels[0].abs().max() <= 2 and 0.2 * 16 < levels[1].abs().max() <= 16


def test_the_negative_of_a_texture_gets_the_negative_perturbation() -> None:
    """So perturbations have no part that is common to all photos."""
    image, budget = photos(2, 64), torch.full((2,), 6.0)
    with torch.no_grad():
        assert torch.allclose(strong()(-image, budget), -strong()(image, budget), atol=1e-5)
    assert not any(name.endswith("bias") for name, _ in strong().named_parameters())


def test_brightness_and_colour_of_a_surface_do_not_matter_but_its_texture_does() -> None:
    image, budget = 0.2 * photos(1, 64), torch.tensor([6.0])
    with torch.no_grad():
        plain, lighter, other = (strong()(i, budget) for i in (image, image + 0.3, image.flip(3)))
    assert torch.allclose(plain, lighter, atol=1e-4)
    assert (plain - other).abs().mean() > 0.1


def test_quiet_places_get_less() -> None:
    image = photos(1, 64)
    image[:, :, :, :32] *= 0.01  # a little more than one level to each side
    mask = strength(SIZE, image)[0, 0]
    assert mask.shape == (64, 64)
    assert mask[:, :20].max() < SIZE.mask_floor + 0.3 and mask[:, 44:].min() == 1
    assert torch.allclose(strength(SIZE, torch.zeros(1, 3, 64, 64)), torch.tensor(SIZE.mask_floor))
    with torch.no_grad():
        levels = strong()(image, torch.tensor([16.0])).abs()
    assert levels[:, :, :, :20].max() <= 16 * mask[:, :20].max()


def test_a_folder_gives_the_network_back(tmp_path: Path) -> None:
    defender = strong()
    digest = save_defender(tmp_path, defender, CARD)
    again, config = load_defender(tmp_path)
    assert config["digest"] == digest and again.size == SIZE
    with torch.no_grad():
        image = photos(1, 64)
        assert torch.equal(again(image, torch.tensor([6.0])), defender(image, torch.tensor([6.0])))
    with pytest.raises(ValueError, match="was trained for budgets of 1 to 16"):
        again(photos(1, 64), torch.tensor([17.0]))


def test_architectures_are_read_by_their_class() -> None:
    for size in SIZES.values():
        assert read_size(size.to_json()) == size
    for name in ("tiny-conv", "tiny-32"):
        assert make_network(SIZES[name]).size == SIZES[name]
    with pytest.raises(ValueError, match="is not a ConvolutionalDefender of this version"):
        read_size({**SIZE.to_json(), "depth": 3})
    with pytest.raises(ValueError, match="8 cells must divide working_resolution"):
        replace(SIZE, working_resolution=40)
    with pytest.raises(ValueError, match="mask_floor lies in"):
        replace(SIZE, mask_floor=0.0)


def test_the_exported_file_takes_any_size_and_says_so(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    assert check_onnx(strong(), path).max_error < 1e-4
    engine = OnnxEngine(model)
    assert (engine.working_resolution, engine.multiple) == (SIZE.largest_side, SIZE.multiple)
    image = photos(1, 96)[:, :, :64]
    with torch.no_grad():
        expected = strong()(image, torch.tensor([6.0]))
    assert np.allclose(engine.perturb(image.numpy(), 6.0), expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("size", [(45, 60), (64, 64), (200, 70), (333, 97)])
def test_a_photo_smaller_than_the_largest_side_is_seen_as_it_is(model: bytes, size: tuple[int, int]) -> None:
    """Nothing is resized: the stored difference is the network's own output, rounded."""
    data = encoded(photograph(*size), "PNG")
    before = pixels_of(data).astype(int)
    protected = Protector(OnnxEngine(model), ProtectionPolicy(min_side=16), 6).protect(data)
    change = pixels_of(protected.data).astype(int) - before
    assert 0 < np.abs(change).max() <= 6
    if min(size) > SIZE.largest_side:
        return
    below, right = -size[1] % SIZE.multiple, -size[0] % SIZE.multiple
    padded = np.pad(before, ((0, below), (0, right), (0, 0)), mode="symmetric")
    image = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        levels = strong()(image, torch.tensor([6.0]))[0].permute(1, 2, 0).numpy()[: size[1], : size[0]]
    expected = np.clip(before + np.rint(levels), 0, 255) - before
    assert np.abs(change - expected).max() <= 1 and (change != expected).mean() < 0.01


def test_a_strip_goes_through_in_squares_that_cover_it(model: bytes) -> None:
    """A network's memory is bounded, whatever the policy allows a photo's longest side to be."""
    shapes: list[tuple[int, ...]] = []

    class Watched(OnnxEngine):
        def perturb(self, pictures: np.ndarray, budget_levels: float) -> np.ndarray:
            shapes.extend(picture.shape for picture in pictures)
            return super().perturb(pictures, budget_levels)

    for size in ((1000, 50), (60, 900)):
        shapes.clear()
        picture = photograph(*size)
        protected = Protector(Watched(model), ProtectionPolicy(), 6).protect(encoded(picture, "PNG"))
        assert set(shapes) == {(3, 64, 64)} and len(shapes) > 15
        change = np.abs(pixels_of(protected.data).astype(int) - np.asarray(picture).astype(int))
        assert 0 < change.max() <= 6
        along = change.mean(axis=(0, 2) if size[0] > size[1] else (1, 2))
        assert along.min() > 0, "no column or row is left out"


def test_a_blank_photo_is_held_back_and_stops_nothing(model: bytes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 0, 0)).save(file, "PNG")
    with pytest.raises(PhotoRefused, match="the photo is one even surface"):
        Protector(OnnxEngine(model), ProtectionPolicy(), 6).protect(file.getvalue())


def test_the_same_photo_gives_the_same_bytes(model: bytes) -> None:
    data = encoded(photograph(150, 100), quality=95, subsampling=0)
    policy = ProtectionPolicy()
    first, again = (Protector(OnnxEngine(model), policy, 6).protect(data).data for _ in range(2))
    assert first == again

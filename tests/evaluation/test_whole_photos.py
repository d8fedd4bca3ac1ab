"""Displacement of whole photos, and the controls beside it, on small real autoencoders and a real ONNX defender."""

import cv2
import numpy as np
import pytest
import torch
from drawn_perturbations import own, shared
from numpy.typing import NDArray
from quick_pipelines import photo_crops
from small_spaces import save_spaces
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.latent_space import LatentSpace, channel_deviation, displacement, load_latent_space, shift
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.models.upright_photos import upright_rgb
from rid.training.batches import pixels_to_signed
from rid.training.evaluation.attackers.views import AS_IS, VIEWS
from rid.training.evaluation.effect.controls import norm
from rid.training.evaluation.effect.latent_ascent import ascend
from rid.training.evaluation.effect.latent_displacement import encode_pixels, yardsticks
from rid.training.evaluation.gates.displacements import join_parts, measure_part, tabulate
from rid.training.evaluation.gates.whole_photos import (
    CONTROLS,
    FIXED,
    NOISE,
    ROWS,
    STRANGERS,
    STRIPES,
    SUBTRACTED,
    CleanPhotos,
    ProtectedPhotos,
    protect_whole,
    scaled_file,
)

PEOPLE = ["a", "b", "c", "d"] * 3


@pytest.fixture(scope="module")
def photos() -> NDArray[np.uint8]:
    return photo_crops(12, side=64)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> list[LatentSpace]:
    return [load_latent_space(str(folder)) for folder in save_spaces(tmp_path_factory.mktemp("spaces"))]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, whatever this processor has, so that numbers can be compared."""
    monkeypatch.setattr("rid.training.devices.multiplies_bfloat16", lambda device: False)


def versions(photos: NDArray[np.uint8], changed: NDArray[np.uint8]) -> ProtectedPhotos:
    return ProtectedPhotos(CleanPhotos(list(photos), 64, PEOPLE), list(changed))


def test_displacement_is_that_of_the_definition(photos: NDArray[np.uint8], spaces: list[LatentSpace]) -> None:
    clean, changed = pixels_to_signed(photos), pixels_to_signed(own(photos))
    for ruler, space in zip(yardsticks(spaces, photos), spaces, strict=True):
        deviation = channel_deviation(space, clean)
        torch.testing.assert_close(ruler.deviation, deviation)
        found = ruler.displacements(encode_pixels(space, photos), own(photos))
        with torch.no_grad():
            expected = displacement(shift(space, clean, changed, deviation))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_many_photos_are_encoded_as_one(photos: NDArray[np.uint8], spaces: list[LatentSpace]) -> None:
    large = np.stack([cv2.resize(photo, (512, 512)) for photo in photos[:3]])  # two fit into a batch
    whole = spaces[0].encode(pixels_to_signed(large))
    torch.testing.assert_close(encode_pixels(spaces[0], large), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("row", CONTROLS)
def test_controls_are_as_large_as_the_perturbation_and_seeded(row: str, photos: NDArray[np.uint8]) -> None:
    protected = versions(photos, own(photos))
    seen = protected.seen(row, range(12), seed=3)
    for clean, change, control in zip(photos, protected.changes, seen, strict=True):
        assert norm(control.astype(np.int16) - clean) == pytest.approx(norm(change), rel=0.002)
    again = protected.seen(row, range(4, 8), seed=3)
    assert np.array_equal(again, seen[4:8])  # a photo's draws do not depend on the part
    assert not np.array_equal(protected.seen(row, range(12), seed=4), seen)


def test_stripes_repeat_every_six_pixels_across(photos: NDArray[np.uint8]) -> None:
    grey = np.full((1, 96, 96, 3), 128, np.uint8)
    clean = CleanPhotos([grey[0], grey[0]], 96)
    protected = ProtectedPhotos(clean, [*shared(grey), *shared(grey)])
    wave = protected.seen(STRIPES, range(1), seed=0)[0, :, :, 0].astype(float) - 128
    power = np.abs(np.fft.fft2(wave)) ** 2
    down, right = np.unravel_index(power.argmax(), power.shape)
    cycles = np.hypot(*(np.minimum(index, 96 - index) for index in (down, right)))
    assert 96 / cycles == pytest.approx(6, rel=0.05)


def test_the_fixed_pattern_is_that_of_other_people(photos: NDArray[np.uint8]) -> None:
    changed = own(photos)
    only_own = photos.copy()
    only_own[[0, 4, 8]] = changed[[0, 4, 8]]  # all photos of person a, and nobody else's
    protected = versions(photos, only_own)
    assert not protected.mean_of_others(0).any()
    assert protected.mean_of_others(1).any()
    fixed = versions(photos, shared(photos))
    moved = fixed.seen(FIXED, range(12), seed=0).astype(int) - photos
    agreement = np.mean(np.sign(moved) == np.sign(fixed.changes))
    assert agreement > 0.95


def test_a_stranger_is_another_person(photos: NDArray[np.uint8]) -> None:
    protected = versions(photos, own(photos))
    for index in range(12):
        assert PEOPLE[protected.stranger(index)] != PEOPLE[index]


def test_the_cosine_tells_a_stencil_from_perturbations_of_ones_own(photos: NDArray[np.uint8]) -> None:
    stencil, specific = (versions(photos, changed).cosines() for changed in (shared(photos), own(photos)))
    assert stencil.min() > 0.85
    assert np.abs(specific).max() < 0.1
    flat = versions(photos, own(photos)).changes.reshape(12, -1).astype(float)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    expected = ((unit @ unit.T).sum(axis=1) - 1) / 11
    np.testing.assert_allclose(specific, expected, atol=1e-9)


def test_a_stencil_of_either_sign_has_no_cosine_and_one_direction(photos: NDArray[np.uint8]) -> None:
    signs = np.array([1, -1] * 6)[:, None, None, None]
    grey = np.full_like(photos, 128)
    turned = (grey + signs * (shared(grey).astype(int) - 128)).astype(np.uint8)
    protected = versions(grey, turned)
    assert abs(protected.cosines().mean()) < 0.1
    assert protected.common_share() == pytest.approx(1.0)
    assert versions(grey, own(grey)).common_share() < 0.15  # a twelfth, and what chance adds


def test_blind_subtraction_removes_a_stencil_and_nothing_else(
    photos: NDArray[np.uint8], spaces: list[LatentSpace]
) -> None:
    left = {}
    for name, change in (("shared", shared), ("own", own)):
        protected = versions(photos, change(photos))
        rulers = yardsticks(spaces, photos)
        found = measure_part(protected, rulers, (AS_IS, SUBTRACTED), range(12))
        left[name] = tabulate(join_parts([found])).left[SUBTRACTED].mean
    assert left["shared"] < 0.35
    assert left["own"] > 0.8


def test_a_table_is_the_same_however_it_is_cut(photos: NDArray[np.uint8], spaces: list[LatentSpace]) -> None:
    protected = versions(photos, own(photos))
    rulers = yardsticks(spaces, photos)
    whole = measure_part(protected, rulers, ROWS, range(12), seed=1)
    cut = join_parts([measure_part(protected, rulers, ROWS, part, seed=1) for part in (range(5), range(5, 12))])
    for row in ROWS:
        for space in spaces:
            np.testing.assert_allclose(cut[row][space.name], whole[row][space.name], rtol=1e-3, atol=1e-6)
    table = tabulate(cut)
    assert set(table.displacement) == set(ROWS)
    assert set(table.left) == {*VIEWS[1:], SUBTRACTED}
    name = spaces[0].name
    expected = cut[AS_IS][name].mean() / cut[NOISE][name].mean()
    assert table.over_noise[name].mean == pytest.approx(expected)
    assert table.over_noise[name].low < expected < table.over_noise[name].high
    assert table.shares[STRANGERS].mean == pytest.approx(
        np.mean([cut[STRANGERS][s.name].mean() / cut[AS_IS][s.name].mean() for s in spaces])
    )


def test_photos_are_protected_as_the_command_does() -> None:
    files = [scaled_file(cv2.imencode(".jpg", photo)[1].tobytes(), 96) for photo in photo_crops(3, side=80)]
    protector = Protector(OnnxEngine(build_model()), ProtectionPolicy(), 6)
    whole = protect_whole(files, protector)
    for data, picture in zip(files, whole, strict=True):
        clean = upright_rgb(data)
        assert clean is not None and clean.shape == picture.shape == (96, 96, 3)
        written = upright_rgb(protector.protect(data).data)
        assert written is not None and np.array_equal(written, picture)
        assert 1 <= np.abs(picture.astype(int) - clean).max() <= 6


def test_a_photo_that_is_refused_is_told() -> None:
    tiny = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match="photo 0 cannot be protected"):
        protect_whole([tiny], Protector(OnnxEngine(build_model()), ProtectionPolicy(), 6))
    with pytest.raises(ValueError, match="cannot be decoded"):
        scaled_file(b"nothing", 64)


def test_one_person_alone_has_no_controls(photos: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="at least two people"):
        CleanPhotos(list(photos), 64, ["a"] * 12)


def test_an_ascent_keeps_the_budget_and_beats_noise(photos: NDArray[np.uint8], spaces: list[LatentSpace]) -> None:
    rulers = yardsticks(spaces, photos)
    few = photos[:4]
    levels = ascend(rulers, few, 6, steps=8, seed=2)
    assert levels.shape == few.shape
    assert np.abs(levels).max() <= 6
    assert ((few + levels) >= 0).all() and ((few + levels) <= 255).all()
    assert np.array_equal(levels, ascend(rulers, few, 6, steps=8, seed=2))
    assert not np.array_equal(levels, ascend(rulers, few, 6, steps=8, seed=3))
    protected = ProtectedPhotos(CleanPhotos(list(few), 64), list((few + levels).astype(np.uint8)))
    table = tabulate(join_parts([measure_part(protected, rulers, (AS_IS, NOISE), range(4))]))
    assert all(ratio.low > 1.5 for ratio in table.over_noise.values())

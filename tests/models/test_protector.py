import io
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from odd_photos import encoded, photograph, pixels_of, with_orientation
from PIL import Image, ImageOps
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.photo_files.images import PhotoRefused, decode
from rid.models.photo_files.png.codec import PngEncoding
from rid.models.photo_files.resampling import from_upright, to_upright
from rid.models.policy import ProtectionPolicy
from rid.models.protector import BudgetBroken, Protector, ZeroPerturbation

POLICY = ProtectionPolicy()


@pytest.fixture(scope="module")
def protector() -> Protector:
    return Protector(OnnxEngine(build_model()), POLICY, 6)


LOSSLESS = {
    "png": encoded(photograph(), "PNG"),
    "png grey": encoded(photograph().convert("L"), "PNG"),
    "png alpha": encoded(Image.merge("RGBA", (*photograph().split(), photograph(seed=1).convert("L"))), "PNG"),
    "png grey alpha": encoded(photograph().convert("LA"), "PNG"),
    "webp": encoded(photograph(), "WEBP", lossless=True),
    "webp alpha": encoded(
        Image.merge("RGBA", (*photograph().split(), photograph(seed=1).convert("L"))), "WEBP", lossless=True, exact=True
    ),
    "tiff": encoded(photograph(), "TIFF"),
    "tiff lzw grey": encoded(photograph().convert("L"), "TIFF", compression="tiff_lzw"),
    "wide": encoded(photograph(900, 100), "PNG"),
    "tall": encoded(photograph(100, 700), "PNG"),
    "small": encoded(photograph(40, 33), "PNG"),
}


@pytest.mark.parametrize("name", sorted(LOSSLESS))
@pytest.mark.parametrize("budget", [1, 6, 16])
def test_the_budget_holds_in_the_decoded_lossless_file(name: str, budget: int) -> None:
    protector = Protector(OnnxEngine(build_model()), POLICY, budget)
    result = protector.protect(LOSSLESS[name])
    before, after = pixels_of(LOSSLESS[name]).astype(int), pixels_of(result.data).astype(int)
    assert before.shape == after.shape
    assert 0 < np.abs(after - before).max() == result.linf_levels <= budget
    if name.endswith("alpha"):
        assert np.array_equal(before[..., -1], after[..., -1])
    assert result.survival_gain == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(LOSSLESS))
def test_format_and_mode_stay(protector: Protector, name: str) -> None:
    result = protector.protect(LOSSLESS[name])
    with Image.open(io.BytesIO(LOSSLESS[name])) as before, Image.open(io.BytesIO(result.data)) as after:
        assert (before.format, before.mode, before.size) == (after.format, after.mode, after.size)


def test_the_same_photo_gives_the_same_bytes(protector: Protector) -> None:
    data = encoded(photograph())
    other = Protector(OnnxEngine(build_model()), POLICY, 6)
    other.protect(encoded(photograph(seed=2)))
    assert protector.protect(data).data == other.protect(data).data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_seen_by_the_network_and_kept_in_the_file(protector: Protector, orientation: int) -> None:
    """Defect 1 of the published pipeline: phone portraits must not come out sideways."""
    data = with_orientation(orientation, width=320, height=200)
    result = protector.protect(data)
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.getexif()[0x0112] == orientation
        assert after.size == (320, 200)
    upright = encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), "PNG")
    turned = to_upright(protector.perturbation(decode(data, POLICY)), orientation)
    straight = protector.perturbation(decode(upright, POLICY))
    assert np.abs(turned.astype(int) - straight).max() <= 1  # resampling rounds differently by a level
    assert np.mean(turned == straight) > 0.95


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_follows_pillow(orientation: int) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(to_upright(pixels, orientation), expected)
    assert np.array_equal(from_upright(to_upright(pixels, orientation), orientation), pixels)


def test_a_wrong_suffix_is_flagged_or_refused(protector: Protector) -> None:
    result = protector.protect(LOSSLESS["png"], "photo.jpg")
    assert result.format == "PNG" and "format_mismatch" in result.flags
    strict = Protector(OnnxEngine(build_model()), ProtectionPolicy(strict_names=True), 6)
    with pytest.raises(PhotoRefused, match="format_mismatch"):
        strict.protect(LOSSLESS["png"], "photo.jpg")


# -------------------------------------------------------------------------------------- what survives, and what not


def fine_protector(policy: ProtectionPolicy = POLICY, budget: int = 6) -> Protector:
    """A defender whose perturbation is coloured noise of single pixels, which JPEG removes first."""
    return Protector(NoiseEngine(), policy, budget)


class NoiseEngine:
    """Full-budget noise in every channel at a working resolution that is the native one."""

    name = "noise"
    working_resolution = 480
    multiple = 0

    def perturb(self, squares: np.ndarray, budget_levels: float) -> np.ndarray:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=squares.shape)
        return (signs * budget_levels).astype(np.float32)


@dataclass(frozen=True)
class ConstantEngine:
    """Outputs one value everywhere."""

    value: float
    name: str = "constant"
    working_resolution: int = 64
    multiple: int = 0

    def perturb(self, squares: np.ndarray, budget_levels: float) -> np.ndarray:
        return np.full_like(squares, self.value)


def test_what_survives_a_fine_jpeg_needs_no_other_coding(protector: Protector) -> None:
    result = protector.protect(encoded(photograph(), quality=95, subsampling=0))
    assert result.survival_gain > 0.8 and result.survival_cosine > 0.8 and result.flags == ()


def test_a_coarse_jpeg_is_raised_until_the_perturbation_survives() -> None:
    data = encoded(photograph(600, 480), quality=90)
    result = fine_protector().protect(data)
    assert result.survival_gain >= 0.6
    assert {"chroma_raised", "quality_raised"} <= set(result.flags)
    assert f"size_ratio:{len(result.data) / len(data):.2f}" in result.flags
    chroma_only = fine_protector(ProtectionPolicy(min_survival=0.3)).protect(data)
    assert "chroma_raised" in chroma_only.flags and "quality_raised" not in chroma_only.flags
    assert 0.3 <= chroma_only.survival_gain < 0.6 and len(chroma_only.data) < len(result.data)


def test_survival_is_measured_on_the_written_file() -> None:
    data = encoded(photograph(600, 480), quality=90)
    protector = fine_protector(ProtectionPolicy(min_survival=0.1))
    result = protector.protect(data)
    before = pixels_of(data).astype(float)
    intended = np.clip(before + protector.perturbation(decode(data, POLICY)), 0, 255) - before
    written = pixels_of(result.data) - before
    assert result.survival_gain == pytest.approx((written * intended).sum() / (intended**2).sum(), rel=1e-6)
    assert result.psnr == pytest.approx(10 * np.log10(255**2 / (written**2).mean()), rel=1e-6)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_photo_whose_format_cannot_keep_enough_is_refused(kind: str) -> None:
    class Weak(NoiseEngine):
        def perturb(self, squares: np.ndarray, budget_levels: float) -> np.ndarray:
            return super().perturb(squares, budget_levels) * (np.random.default_rng(1).random(squares.shape) < 0.01)

    strict = ProtectionPolicy(min_survival=1.0)
    with pytest.raises(PhotoRefused, match=r"protection_lost_in_encoding: the .* keeps 0"):
        Protector(Weak(), strict, 1).protect(encoded(photograph(600, 480), kind, quality=50))


@pytest.mark.parametrize("value", [0.0, 1e-5, np.nan, np.inf, -np.inf])
def test_a_defender_that_does_nothing_is_an_error_of_the_run(value: float) -> None:
    with pytest.raises(ZeroPerturbation):
        Protector(ConstantEngine(value), POLICY, 6).protect(LOSSLESS["png"])


def test_a_perturbation_that_rounds_to_nothing_is_the_photos_refusal() -> None:
    with pytest.raises(PhotoRefused, match="rounds to nothing"):
        Protector(ConstantEngine(0.4), POLICY, 6).protect(LOSSLESS["png"])


def test_a_white_photo_moves_the_one_way_it_can(protector: Protector) -> None:
    white = encoded(Image.new("RGB", (200, 200), "white"), "PNG")
    result = protector.protect(white)
    assert 249 <= pixels_of(result.data).min() < 255
    assert "saturated" in result.flags and result.survival_gain == 1
    with pytest.raises(PhotoRefused, match="black or white") as refused:
        Protector(ConstantEngine(6.0), POLICY, 6).protect(white)
    assert refused.value.reason == "protection_lost_in_encoding"
    assert Protector(ConstantEngine(-6.0), POLICY, 6).protect(white).linf_levels == 6


def test_a_photo_with_a_speck_that_can_move_is_not_protected() -> None:
    pixels = np.full((200, 200, 3), 255, np.uint8)
    pixels[:20, :20] = 100
    with pytest.raises(PhotoRefused, match="can be stored"):
        Protector(ConstantEngine(6.0), POLICY, 6).protect(encoded(Image.fromarray(pixels), "PNG"))


class OneMore(PngEncoding):
    """An encoder with a fault: it changes a value."""

    def code(self, pixels: np.ndarray) -> bytes:
        wrong = pixels.copy()
        wrong[3, 5, 0] ^= 32
        return super().code(wrong)


def test_a_written_file_that_breaks_the_budget_is_an_error_of_the_run(protector: Protector) -> None:
    photo = decode(LOSSLESS["png"], POLICY)
    with pytest.raises(BudgetBroken, match="6 are allowed"):
        protector.protect_decoded(replace(photo, encoding=OneMore(())), 1)


def test_a_written_file_that_lost_its_orientation_is_an_error_of_the_run(protector: Protector) -> None:
    data = with_orientation(6)
    photo = decode(data, POLICY)
    with pytest.raises(BudgetBroken, match="orientation"):
        protector.protect_decoded(replace(photo, encoding=replace(photo.encoding, metadata=())), len(data))


# -------------------------------------------------------------------------------------------------------- colours


def test_photos_without_colour_stay_without(protector: Protector) -> None:
    grey = photograph().convert("L")
    for data in (
        encoded(grey.convert("RGB"), "PNG"),
        encoded(grey.convert("RGB")),
        encoded(grey.convert("RGB"), "TIFF"),
    ):
        after = pixels_of(protector.protect(data).data)
        assert after.shape[2] == 3
        assert np.array_equal(after[..., 0], after[..., 1]) and np.array_equal(after[..., 1], after[..., 2])
    as_colour = protector.perturbation(decode(encoded(grey.convert("RGB"), "PNG"), POLICY))
    as_grey = protector.perturbation(decode(encoded(grey, "PNG"), POLICY))
    assert as_grey.shape == (240, 300) and np.array_equal(as_colour[..., 1], as_grey)


def test_grey_moves_by_the_luma_of_the_three_channels(protector: Protector) -> None:
    data = encoded(photograph(64, 64).convert("L"), "PNG")
    photo = decode(data, POLICY)
    square = np.repeat(photo.pixels[None, None], 3, axis=1).astype(np.float32) / 127.5 - 1
    levels = protector.engine.perturb(square, 6.0)[0]
    luma = 0.299 * levels[0] + 0.587 * levels[1] + 0.114 * levels[2]
    assert np.abs(protector.perturbation(photo) - luma).max() <= 0.51


def test_colours_under_transparent_pixels_are_kept_within_the_budget(protector: Protector) -> None:
    pixels = np.dstack([np.asarray(photograph()), np.zeros((240, 300), np.uint8)])
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        result = protector.protect(encoded(Image.fromarray(pixels), kind, **options))
        after = pixels_of(result.data)
        assert np.abs(after[..., :3].astype(int) - pixels[..., :3]).max() <= 6 and not after[..., 3].any()


# ------------------------------------------------------------------------------------------------------ large, odd


@pytest.mark.parametrize("size", [(3000, 2000), (1999, 3001)])
def test_large_photos(protector: Protector, size: tuple[int, int]) -> None:
    data = encoded(photograph(*size))
    result = protector.protect(data)
    assert (result.width, result.height) == size
    assert result.linf_levels <= 6 and result.survival_gain > 0.8
    assert result.data == protector.protect(data).data


def test_a_perturbation_does_not_depend_on_the_size_of_the_photo(protector: Protector) -> None:
    """The attacker resizes to the model's resolution: there, both perturbations are the same picture."""
    large = protector.perturbation(decode(encoded(photograph(1280, 1280), "PNG"), POLICY)).astype(np.float32)
    small = protector.perturbation(decode(encoded(photograph(64, 64), "PNG"), POLICY)).astype(np.float32)
    seen = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    cosine = (seen * small).sum() / np.sqrt((seen**2).sum() * (small**2).sum())
    assert cosine > 0.9


def test_protecting_again_stays_within_the_budget_of_its_input(protector: Protector) -> None:
    once = protector.protect(LOSSLESS["png"]).data
    again = protector.protect(once)
    assert np.abs(pixels_of(again.data).astype(int) - pixels_of(once)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_every_format_keeps_its_orientation(protector: Protector, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(photograph(200, 120), kind, exif=exif, **options)
    result = protector.protect(data)
    before, after = (ImageOps.exif_transpose(Image.open(io.BytesIO(file))) for file in (data, result.data))
    assert before.size == after.size
    assert 0 < np.abs(np.asarray(after).astype(int) - np.asarray(before)).max() <= 6

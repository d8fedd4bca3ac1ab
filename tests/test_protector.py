import io

import numpy as np
import pytest
from odd_photos import encoded, photograph, pixels_of, with_orientation
from PIL import Image, ImageOps
from tiny_defender import build_model

from models.engines import OnnxEngine
from models.images import PhotoRefused, decode
from models.policy import ProtectionPolicy
from models.protector import Protector, ZeroPerturbation
from models.resampling import from_upright, place_windows, to_upright

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


def test_a_jpeg_keeps_its_protection_or_is_raised_or_refused(protector: Protector) -> None:
    fine = protector.protect(encoded(photograph(), quality=95, subsampling=0))
    assert fine.survival_gain > 0.8 and "quality_raised" not in fine.flags
    coarse = protector.protect(encoded(photograph(), quality=20))
    assert coarse.survival_gain >= 0.6
    assert any(flag.startswith("size_ratio:") for flag in coarse.flags) == (
        "chroma_raised" in coarse.flags or "quality_raised" in coarse.flags
    )


def test_a_defender_that_does_nothing_is_an_error(protector: Protector) -> None:
    nothing = Protector(OnnxEngine(build_model(strength=0.0)), POLICY, 6)
    with pytest.raises(ZeroPerturbation):
        nothing.protect(LOSSLESS["png"])


def test_saturated_pixels_stay_in_range(protector: Protector) -> None:
    white = encoded(Image.new("RGB", (200, 200), "white"), "PNG")
    result = protector.protect(white)
    after = pixels_of(result.data)
    assert after.min() >= 249
    assert "saturated" in result.flags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(protector: Protector, kind: str, share: float) -> None:
    data = encoded(photograph(), kind)
    with pytest.raises(PhotoRefused) as refused:
        protector.protect(data[: int(len(data) * share)])
    assert refused.value.reason in ("truncated", "decode_error")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a photo at all", "unsupported_format"),
        (encoded(photograph(), "GIF"), "unsupported_format"),
        (encoded(photograph(), "BMP"), "unsupported_format"),
        (encoded(photograph().convert("CMYK"), "JPEG"), "unsupported_mode"),
        (encoded(photograph().convert("1"), "PNG"), "unsupported_bit_depth"),
        (encoded(Image.fromarray(np.zeros((64, 64), np.uint16)), "PNG"), "unsupported_bit_depth"),
        (encoded(photograph(20, 20), "PNG"), "too_small"),
        (encoded(photograph(), "PNG", save_all=True, append_images=[photograph(seed=1)]), "animated"),
        (encoded(photograph(), "WEBP", save_all=True, append_images=[photograph(seed=1)]), "animated"),
        (encoded(photograph(), "TIFF", save_all=True, append_images=[photograph(seed=1)]), "animated"),
    ],
)
def test_what_cannot_be_protected_is_refused_with_a_reason(protector: Protector, data: bytes, reason: str) -> None:
    with pytest.raises(PhotoRefused) as refused:
        protector.protect(data)
    assert refused.value.reason == reason


def test_a_wrong_suffix_is_flagged_or_refused(protector: Protector) -> None:
    result = protector.protect(LOSSLESS["png"], "photo.jpg")
    assert result.format == "PNG" and "format_mismatch" in result.flags
    strict = Protector(OnnxEngine(build_model()), ProtectionPolicy(strict_names=True), 6)
    with pytest.raises(PhotoRefused, match="format_mismatch"):
        strict.protect(LOSSLESS["png"], "photo.jpg")


def test_windows_cover_and_weights_keep_bounds() -> None:
    windows = place_windows((64, 300), 64, 0.25)
    assert windows.starts[0] == 0 and windows.starts[-1] == 300 - 64
    ones = np.full((len(windows.starts), 3, 64, 64), 6.0, np.float32)
    np.testing.assert_allclose(windows.join(ones, (64, 300)), 6.0, rtol=1e-6)


def test_metadata_travels_and_thumbnails_do_not(protector: Protector) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8298] = "Copyright someone"
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    thumbnail = encoded(photograph(100, 80))
    data = encoded(photograph(), exif=exif, icc_profile=icc, dpi=(300, 300), comment=b"a comment", progressive=True)
    data = (
        data[:2]
        + b"\xff\xed"
        + (2 + len(b"Photoshop 3.0\x008BIM\x04\x0c\x00\x00" + len(thumbnail).to_bytes(4, "big") + thumbnail)).to_bytes(
            2, "big"
        )
        + b"Photoshop 3.0\x008BIM\x04\x0c\x00\x00"
        + len(thumbnail).to_bytes(4, "big")
        + thumbnail
        + data[2:]
    )
    result = protector.protect(data + thumbnail)
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.info["icc_profile"] == icc
        assert after.info["dpi"] == (300, 300)
        assert after.info["comment"] == b"a comment"
        assert after.info["progressive"] == 1
        assert after.getexif()[0x010F] == "Maker"
        assert after.getexif()[0x8298] == "Copyright someone"
    assert result.data.count(b"\xff\xd8\xff") == 1
    assert {"renditions_removed", "trailing_bytes_removed"} <= set(result.flags)

"""Reading and writing photos: every format and mode, the limits, and what is refused."""

import io
import re
import warnings
import zlib
from typing import get_args

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_photos import encoded, photograph
from PIL import Image, ImageFile

from rid.models.photo_files.images import PhotoRefused, decode, read_header, sniff
from rid.models.photo_files.photos import FLAGS, RefusalReason
from rid.models.photo_files.png.chunks import SIGNATURE, Chunk, read_chunks
from rid.models.photo_files.tiff.directory import Entry, with_entries, with_short
from rid.models.photo_files.webp.vp8 import estimate_quality
from rid.models.policy import ProtectionPolicy
from rid.resources.schemas import PHOTO_SUFFIXES, UNSUPPORTED_SUFFIXES, Reason

POLICY = ProtectionPolicy()
RGB = photograph()
GREY = RGB.convert("L")
RGBA = Image.merge("RGBA", (*RGB.split(), photograph(seed=1).convert("L")))
GREY_ALPHA = Image.merge("LA", (GREY, photograph(seed=1).convert("L")))


def refusal(data: bytes, policy: ProtectionPolicy = POLICY, name: str = "") -> PhotoRefused:
    with pytest.raises(PhotoRefused) as refused:
        decode(data, policy, name)
    return refused.value


# ---------------------------------------------------------------------------------------------------- pixels

FILES = {
    "JPEG": encoded(RGB),
    "JPEG 4:4:4": encoded(RGB, subsampling=0),
    "JPEG 4:2:2": encoded(RGB, subsampling=1),
    "JPEG grey": encoded(GREY),
    "JPEG progressive": encoded(RGB, progressive=True),
    "JPEG RGB": encoded(RGB, keep_rgb=True, subsampling=0),
    "PNG": encoded(RGB, "PNG"),
    "PNG grey": encoded(GREY, "PNG"),
    "PNG alpha": encoded(RGBA, "PNG"),
    "PNG grey alpha": encoded(GREY_ALPHA, "PNG"),
    "WEBP": encoded(RGB, "WEBP", lossless=True),
    "WEBP alpha": encoded(RGBA, "WEBP", lossless=True, exact=True),
    "WEBP lossy": encoded(RGB, "WEBP", quality=80),
    "WEBP lossy alpha": encoded(RGBA, "WEBP", quality=80),
    "TIFF": encoded(RGB, "TIFF"),
    "TIFF grey": encoded(GREY, "TIFF", compression="tiff_lzw"),
    "TIFF alpha": encoded(RGBA, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF grey alpha": encoded(GREY_ALPHA, "TIFF", compression="packbits"),
}
LOSSLESS = sorted(name for name in FILES if not name.startswith("JPEG") and "lossy" not in name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_pixels_and_header_are_those_that_pillow_sees(name: str) -> None:
    photo = decode(FILES[name], POLICY)
    with Image.open(io.BytesIO(FILES[name])) as picture:
        assert np.array_equal(photo.pixels, np.asarray(picture))
        assert (photo.header.format, photo.header.mode) == (picture.format, picture.mode)
        assert (photo.header.width, photo.header.height) == picture.size
    assert photo.pixels.dtype == np.uint8
    assert set(photo.flags) <= {"quality_estimated"}
    assert photo.encoding.lossless == (name in LOSSLESS)


@pytest.mark.parametrize("name", LOSSLESS)
def test_writing_a_lossless_photo_keeps_every_value(name: str) -> None:
    photo = decode(FILES[name], POLICY)
    changed = np.random.default_rng(0).integers(0, 256, photo.pixels.shape, dtype=np.uint8)
    again = decode(photo.write(changed), POLICY)
    assert np.array_equal(again.pixels, changed)
    assert again.header == photo.header and again.encoding == photo.encoding
    assert list(photo.encoding.stronger()) == []


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("JPEG")))
def test_a_jpeg_is_written_with_its_own_coding(name: str) -> None:
    photo = decode(FILES[name], POLICY)
    written = photo.write(photo.pixels)
    again = decode(written, POLICY)
    assert again.header == photo.header and again.encoding == photo.encoding
    with Image.open(io.BytesIO(FILES[name])) as before, Image.open(io.BytesIO(written)) as after:
        assert before.quantization == after.quantization
        assert before.mode == "L" or before.layer == after.layer  # sampling means nothing for one component
        assert before.info.get("progressive") == after.info.get("progressive")
    assert np.abs(again.pixels.astype(int) - photo.pixels).mean() < 2


def test_a_jpeg_with_three_tables_keeps_them() -> None:
    tables = [[base + i for i in range(64)] for base in (3, 5, 9)]
    photo = decode(encoded(RGB, qtables=tables, quality=-1), POLICY)
    assert photo.encoding.tables == tuple(map(tuple, tables))
    assert decode(photo.write(photo.pixels), POLICY).encoding == photo.encoding


@pytest.mark.parametrize("chroma", ["440", "411"])
def test_chroma_that_cannot_be_written_becomes_finer_and_is_flagged(chroma: str) -> None:
    photo = decode(simplejpeg.encode_jpeg(np.ascontiguousarray(RGB), 90, "RGB", chroma), POLICY)
    assert photo.flags == ("chroma_raised",) and photo.encoding.subsampling == 0
    photo.write(photo.pixels)


def test_stronger_jpegs_are_finer_step_by_step_to_the_finest() -> None:
    photo = decode(encoded(RGB, quality=40), POLICY)
    steps = list(photo.encoding.stronger())
    assert steps[0].flags == ("chroma_raised",) and steps[0].encoding.tables == photo.encoding.tables
    sizes = [len(step.encoding.code(photo.pixels)) for step in steps]
    assert sizes == sorted(sizes)
    assert steps[-1].encoding.tables[0] == (1,) * 64
    assert all("quality_raised" in step.flags for step in steps[1:])


@pytest.mark.parametrize("progressive", [False, True])
def test_noise_at_the_highest_quality_can_be_written(progressive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "MAXBLOCK", 2**24)
        data = encoded(Image.fromarray(noise), quality=100, subsampling=0, progressive=progressive)
    photo = decode(data, POLICY)
    before = ImageFile.MAXBLOCK
    assert np.abs(decode(photo.write(noise), POLICY).pixels.astype(int) - noise).max() < 10
    assert before == ImageFile.MAXBLOCK


@pytest.mark.parametrize("quality", [10, 40, 60, 75, 85, 95, 100])
def test_the_quality_of_a_lossy_webp_is_estimated(quality: int) -> None:
    data = encoded(RGB, "WEBP", quality=quality)
    photo = decode(data, POLICY)
    assert "quality_estimated" in photo.flags
    assert abs(photo.encoding.quality - quality) <= 6
    assert [step.encoding.quality for step in photo.encoding.stronger()][-1:] in ([100], [])
    assert estimate_quality(b"\x01" * 40) is None and estimate_quality(b"") is None


# ------------------------------------------------------------------------------------------------ conversions


def test_palettes_become_true_colour_or_are_refused() -> None:
    for kind in ("PNG", "TIFF"):
        palette = RGB.quantize(64)
        data = encoded(palette, kind)
        photo = decode(data, POLICY)
        assert "palette_converted" in photo.flags
        assert np.array_equal(photo.pixels, np.asarray(palette.convert("RGB")))
        assert refusal(data, ProtectionPolicy(palette="quarantine")).reason == "unsupported_mode"


@pytest.mark.parametrize("picture", [RGB.quantize(16), RGB, GREY])
def test_transparent_colours_become_an_alpha_channel(picture: Image.Image) -> None:
    key = {"P": 3, "L": 12, "RGB": RGB.getpixel((5, 5))}[picture.mode]
    data = encoded(picture, "PNG", transparency=key)
    photo = decode(data, POLICY)
    with Image.open(io.BytesIO(data)) as expected:
        target = "LA" if picture.mode == "L" else "RGBA"
        assert np.array_equal(photo.pixels, np.asarray(expected.convert(target)))
    assert "transparency_converted" in photo.flags
    assert 0 < np.count_nonzero(photo.pixels[..., -1] == 0) < photo.pixels[..., 0].size
    again = decode(photo.write(photo.pixels), POLICY)
    assert np.array_equal(again.pixels, photo.pixels) and again.flags == ()


def png(depth: int, colour_type: int, row: bytes, *extra: Chunk, interlace: int = 0) -> bytes:
    """A 64 x 64 PNG of equal rows."""
    header = (64).to_bytes(4, "big") * 2 + bytes((depth, colour_type, 0, 0, interlace))
    pixels = zlib.compress((b"\x00" + row) * 64)
    chunks = (Chunk(b"IHDR", header), *extra, Chunk(b"IDAT", pixels), Chunk(b"IEND", b""))
    return SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks)


def test_grey_of_few_bits_is_written_with_eight_and_flagged() -> None:
    photo = decode(png(4, 0, b"\x0f" * 32), POLICY)
    assert "grey_depth_converted" in photo.flags
    assert np.array_equal(photo.pixels, np.tile(np.array([0, 255], np.uint8), (64, 32)))
    assert refusal(png(4, 0, b"\x0f" * 32, Chunk(b"tRNS", b"\x00\x0f"))).reason == "unsupported_bit_depth"


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_sixteen_bits_are_refused_and_not_halved(colour_type: int) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    assert refusal(png(16, colour_type, b"\x01\x02" * 64 * channels)).reason == "unsupported_bit_depth"


def test_sixteen_bit_tiffs_are_refused_too() -> None:
    colours = np.asarray(RGB).astype(np.uint16) * 257
    _, data = cv2.imencode(".tiff", colours)
    assert refusal(data.tobytes()).reason == "unsupported_bit_depth"
    assert refusal(encoded(Image.fromarray(colours[..., 0]), "TIFF")).reason == "unsupported_bit_depth"
    assert refusal(encoded(RGB.convert("1"), "TIFF", compression="group4")).reason == "unsupported_bit_depth"
    assert refusal(encoded(GREY.convert("F"), "TIFF")).reason == "unsupported_bit_depth"


@pytest.mark.parametrize("kind", [0, 1])
def test_alpha_that_the_colours_are_scaled_by_is_refused_and_not_divided_out(kind: int) -> None:
    """Pillow would divide, which changes stored values; and it would drop a fourth sample of unknown meaning."""
    data = encoded(RGBA, "TIFF")
    assert decode(data, POLICY).header.mode == "RGBA"
    assert refusal(with_short(data, 338, kind)).reason == "unsupported_mode"


# -------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_and_the_orientation_stay(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = decode(encoded(RGB, kind, **options), POLICY)
    photo = decode(encoded(RGB, kind, exif=exif, **options), POLICY)
    assert photo.header.orientation == orientation
    assert (photo.header.width, photo.header.height) == RGB.size
    assert np.array_equal(photo.pixels, plain.pixels)
    again = decode(photo.write(photo.pixels), POLICY)
    assert again.header == photo.header
    assert kind == "JPEG" or np.array_equal(again.pixels, photo.pixels)


def test_only_the_tag_turns_a_tiff() -> None:
    packet = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    data = with_entries(encoded(RGB, "TIFF"), (Entry(700, 1, len(packet), packet),), ())
    photo = decode(data, POLICY)
    assert photo.header.orientation == 1 and np.array_equal(photo.pixels, np.asarray(RGB)) and photo.xmp == packet


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_stops_early_is_refused_as_truncated(name: str) -> None:
    data = FILES[name]
    reasons = {refusal(data[: len(data) * share // 100]).reason for share in range(10, 100)}
    assert reasons == {"truncated"}


@pytest.mark.parametrize("name", ["JPEG", "JPEG progressive", "PNG"])
def test_a_file_without_its_last_bytes_is_refused(name: str) -> None:
    assert refusal(FILES[name][:-1]).reason == "truncated"
    assert refusal(FILES[name][:-2]).reason == "truncated"


def test_a_jpeg_that_was_cut_and_ended_again_is_flagged() -> None:
    data = FILES["JPEG"]
    photo = decode(data[: len(data) // 2] + b"\xff\xd9", POLICY)
    assert "decoder_warning" in photo.flags


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", "empty", "no bytes"),
        (b"a text that someone called photo.jpg", "unsupported_format", "none of the known"),
        (b"\xff\xd8", "unsupported_format", "none of the known"),
        (encoded(RGB, "GIF"), "unsupported_format", "a GIF"),
        (encoded(RGB, "BMP"), "unsupported_format", "a BMP"),
        (b"\x00\x00\x00\x1cftypavif" + bytes(100), "unsupported_format", "an AVIF"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(100), "unsupported_format", "a HEIC"),
        (b"%PDF-1.7", "unsupported_format", "a PDF"),
        (b"8BPS\x00\x01", "unsupported_format", "a Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "unsupported_format", "none of the known"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 500, "decode_error", "no whole header"),
        (b"RIFF\xf0\x01\x00\x00WEBP" + b"x" * 496, "decode_error", "header is not valid"),
        (b"II*\x00\x08\x00\x00\x00" + b"x" * 500, "decode_error", "header is not valid"),
        (encoded(RGB.convert("CMYK"), "JPEG"), "unsupported_mode", "4 components"),
        (encoded(RGB.convert("CMYK"), "TIFF"), "unsupported_mode", "CMYK"),
        (encoded(RGB.convert("LAB"), "TIFF"), "unsupported_mode", "LAB"),
        (encoded(RGB.convert("1"), "PNG"), "unsupported_bit_depth", "1 bits"),
        (encoded(RGB, "PNG", save_all=True, append_images=[GREY.convert("RGB")]), "animated", "PNG"),
        (encoded(RGB, "WEBP", save_all=True, append_images=[GREY.convert("RGB")]), "animated", "WebP"),
        (encoded(RGB, "TIFF", save_all=True, append_images=[GREY]), "animated", "pages"),
    ],
)
def test_what_cannot_be_protected_is_refused_with_a_reason(data: bytes, reason: str, says: str) -> None:
    first = refusal(data)
    assert first.reason == reason and says in first.detail
    assert refusal(data).detail == first.detail and "0x" not in first.detail
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert refusal(data).reason == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_limits_are_held_before_any_pixel_is_decoded(kind: str) -> None:
    data = encoded(photograph(300, 200), kind)
    cases = {
        "too_large": ProtectionPolicy(max_bytes=len(data) - 1),
        "too_many_pixels": ProtectionPolicy(max_pixels=300 * 200 - 1),
        "too_small": ProtectionPolicy(min_side=201),
    }
    for reason, policy in cases.items():
        with pytest.raises(PhotoRefused) as refused:
            read_header(data, policy)
        assert refused.value.reason == reason
    with pytest.raises(PhotoRefused, match=r"too_many_pixels.*299 a side"):
        read_header(data, ProtectionPolicy(max_side=299))
    exact = ProtectionPolicy(max_bytes=len(data), max_pixels=300 * 200, max_side=300, min_side=200)
    assert read_header(data, exact).width == 300


def test_decompression_bombs_are_refused_from_their_header() -> None:
    bombs = {
        "PNG": encoded(Image.new("L", (14_000, 14_000)), "PNG"),
        "TIFF": encoded(Image.new("L", (14_000, 14_000)), "TIFF", compression="tiff_adobe_deflate"),
        "JPEG": encoded(Image.new("L", (12_000, 12_000)), "JPEG"),
    }
    for data in bombs.values():
        assert len(data) < 3_000_000
        assert refusal(data).reason == "too_many_pixels"
    text = b"Comment\x00\x00" + zlib.compress(bytes(64 * 2**20))
    header = read_chunks(FILES["PNG"]).chunks[0]
    data = SIGNATURE + header.to_bytes() + Chunk(b"zTXt", text).to_bytes() + FILES["PNG"][33:]
    assert "metadata_damaged" in decode(data, POLICY).flags  # the photo lives, the text does not


def test_a_wrong_checksum_of_pixels_is_found() -> None:
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 1
    assert refusal(bytes(data)).reason == "decode_error"


@pytest.mark.parametrize(
    ("name", "flagged"),
    [
        ("a.png", False),
        ("a.PNG", False),
        ("a", False),
        ("", False),
        ("train.parquet/0/17", False),
        ("version-1.5", False),
        ("a.jpg", True),
        ("folder.png/a.JPEG", True),
        ("a.heic", True),
    ],
)
def test_names_of_another_format_are_flagged_or_refused(name: str, flagged: bool) -> None:
    assert ("format_mismatch" in decode(FILES["PNG"], POLICY, name).flags) == flagged
    strict = ProtectionPolicy(strict_names=True)
    if flagged:
        assert refusal(FILES["PNG"], strict, name).reason == "format_mismatch"
    else:
        assert read_header(FILES["PNG"], strict, name).format == "PNG"


def test_suffixes_and_reasons_are_those_of_the_catalog() -> None:
    from rid.models.photo_files.images import SUFFIXES

    other = SUFFIXES["another format"]
    assert {s for kind, group in SUFFIXES.items() if kind != "another format" for s in group} == set(PHOTO_SUFFIXES)
    assert set(other) <= {*UNSUPPORTED_SUFFIXES, ".psd"}
    assert set(get_args(RefusalReason)) <= {reason.value for reason in Reason}
    assert all(re.fullmatch("[a-z_]+", flag) for flag in FLAGS)


def test_formats_are_told_by_their_content() -> None:
    assert {sniff(data) for data in FILES.values()} == {"JPEG", "PNG", "WEBP", "TIFF"}


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    head=st.booleans(),
)
def test_damaged_files_decode_or_are_refused_and_nothing_else(
    name: str, changes: list[tuple[float, int]], head: bool
) -> None:
    data = bytearray(FILES[name])
    span = min(700, len(data)) if head else len(data)
    for place, value in changes:
        data[int(place * span)] = value
    try:
        photo = decode(bytes(data), POLICY)
    except PhotoRefused as refused:
        assert refused.reason in get_args(RefusalReason)
    else:
        assert photo.pixels.shape[:2] == (photo.header.height, photo.header.width)
        assert set(photo.flags) <= set(FLAGS)

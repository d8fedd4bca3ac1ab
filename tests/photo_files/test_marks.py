"""A protected file says so, and the mark holds for its own pixels alone."""

import io
from dataclasses import replace

import numpy as np
import pytest
from odd_photos import encoded, photograph
from PIL import Image
from tiny_defender import build_model

from rid.models.data_mining import NAME, NAMESPACE, VOCABULARY
from rid.models.engines import OnnxEngine
from rid.models.photo_files.images import decode, mark_of
from rid.models.photo_files.jpeg.segments import APP1, Segment, with_metadata, with_xmp
from rid.models.photo_files.jpeg.segments import read_header_segments as segments_of
from rid.models.photo_files.marks import (
    MARK_NAMESPACE,
    AlreadyProtected,
    Mark,
    held_mark,
    pixels_sha256,
    read_mark,
    with_mark,
)
from rid.models.photo_files.xmp import RDF, Packet
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector

POLICY = ProtectionPolicy()
DIGEST = "5" * 64
XMP = b"http://ns.adobe.com/xap/1.0/\x00"
OWNERS = f"<rdf:RDF xmlns:rdf='{RDF}'><rdf:Description rdf:about='' dc:x='kept' xmlns:dc='urn:d'/></rdf:RDF>".encode()

RGB = photograph(200, 160)
ALPHA = Image.merge("RGBA", (*RGB.split(), photograph(200, 160, seed=1).convert("L")))
PHOTOS = {
    "jpeg": ("JPEG", RGB, {}),
    "jpeg progressive": ("JPEG", RGB, {"progressive": True}),
    "jpeg grey": ("JPEG", RGB.convert("L"), {}),
    "png": ("PNG", RGB, {}),
    "png grey alpha": ("PNG", ALPHA.convert("LA"), {}),
    "webp": ("WEBP", RGB, {"lossless": True}),
    "webp alpha": ("WEBP", ALPHA, {"lossless": True, "exact": True}),
    "webp lossy": ("WEBP", RGB, {"quality": 80}),
    "webp lossy alpha": ("WEBP", ALPHA, {"quality": 80}),
    "tiff": ("TIFF", RGB, {}),
    "tiff lzw": ("TIFF", ALPHA, {"compression": "tiff_lzw"}),
}


def protector(digest: str | None = DIGEST, **policy: object) -> Protector:
    return Protector(OnnxEngine(build_model()), ProtectionPolicy(**policy), 6, digest)


def photo(name: str, **options: object) -> bytes:
    kind, picture, more = PHOTOS[name]
    return encoded(picture, kind, **more, **options)


def with_packet(data: bytes, packet: bytes) -> bytes:
    """A JPEG with another XMP packet."""
    kept = tuple(s for s in segments_of(data).header if s.marker in range(0xE0, 0xF0) and not s.payload.startswith(XMP))
    return with_metadata(data, with_xmp(kept, packet))


@pytest.mark.parametrize("name", sorted(PHOTOS))
@pytest.mark.parametrize("owners", [b"", OWNERS])
def test_the_mark_fits_the_pixels_of_the_written_file(name: str, owners: bytes) -> None:
    data = photo(name, **({"tiffinfo": {700: owners}} if "tiff" in name else {"xmp": owners}) if owners else {})
    result, plain = protector().protect(data), protector(None).protect(data)
    mark = mark_of(result.data)
    again = decode(result.data, POLICY)
    assert mark == Mark(DIGEST, 6, pixels_sha256(again.pixels)) == held_mark(again)
    assert mark.pixels_sha256 == result.pixels_sha256 and plain.pixels_sha256 is None
    unmarked = decode(plain.data, POLICY)
    assert np.array_equal(unmarked.pixels, again.pixels) and unmarked.header == again.header
    assert (result.survival_gain, result.psnr, result.flags) == (plain.survival_gain, plain.psnr, plain.flags)
    assert mark_of(plain.data) is None and mark_of(data) is None
    assert result.data == protector().protect(data).data
    with Image.open(io.BytesIO(result.data)) as seen:
        seen.load()
        assert MARK_NAMESPACE.encode() in seen.info["xmp"]
        assert not owners or "png" in name or b"dc:x='kept'" in seen.info["xmp"]


@pytest.mark.parametrize("name", sorted(PHOTOS))
def test_a_known_mark_that_holds_is_not_protected_once_more(name: str) -> None:
    once = protector().protect(photo(name))
    with pytest.raises(AlreadyProtected) as held:
        protector("6" * 64).protect(once.data, known_mark=True)
    assert held.value.mark == mark_of(once.data) and held.value.format == once.format
    again = protector().protect(once.data)  # nobody bears it out
    assert "mark_replaced" in again.flags and mark_of(again.data).pixels_sha256 == again.pixels_sha256
    assert again.pixels_sha256 != once.pixels_sha256


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff"])
def test_edited_pixels_under_an_old_mark_are_protected_anew(name: str) -> None:
    once = decode(protector().protect(photo(name)).data, POLICY)
    pixels = once.pixels.copy()
    pixels[20:40, 20:40] = 90
    edited = once.write(pixels)
    assert mark_of(edited) is not None and held_mark(decode(edited, POLICY)) is None
    result = protector("6" * 64).protect(edited, known_mark=True)
    assert result.linf_levels > 0 and "mark_replaced" in result.flags
    assert mark_of(result.data) == Mark("6" * 64, 6, result.pixels_sha256)
    assert result.data.count(b"PixelsSha256") == 1


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff"])
def test_a_mark_that_was_copied_to_another_photo_does_not_hold(name: str) -> None:
    kind, _, options = PHOTOS[name]
    stolen = decode(protector().protect(photo(name)).data, POLICY).xmp
    victim = decode(encoded(photograph(200, 160, seed=2), kind, **options), POLICY)
    data = replace(victim, xmp=stolen).write(victim.pixels)
    assert mark_of(data) is not None
    result = protector().protect(data, known_mark=True)
    assert "mark_replaced" in result.flags and mark_of(result.data).pixels_sha256 == result.pixels_sha256


def test_a_picture_of_another_shape_has_another_digest() -> None:
    flat = np.zeros((6, 4), np.uint8)
    digests = {pixels_sha256(flat.reshape(shape)) for shape in [(6, 4), (4, 6), (6, 4, 1), (2, 4, 3), (3, 4, 2)]}
    assert len(digests) == 5
    wide = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert pixels_sha256(wide[:, ::2]) == pixels_sha256(wide[:, ::2].copy())


def test_turning_the_tag_is_no_edit() -> None:
    data = protector().protect(photo("jpeg")).data
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = with_metadata(data, (Segment(APP1, exif.tobytes()), *segments_of(data).header[1:2]))
    assert decode(turned, POLICY).header.orientation == 6 and held_mark(decode(turned, POLICY)) is not None


def test_a_marked_file_that_also_holds_another_picture_is_not_carried_along() -> None:
    """The other picture may be the original: bytes are carried along unchanged, and it would be published."""
    data = protector().protect(photo("jpeg")).data
    original = photo("jpeg")
    for hiding in (data + original, data[:2] + Segment(0xE4, original).to_bytes() + data[2:]):
        assert held_mark(decode(hiding, POLICY)) is None
        result = protector().protect(hiding, known_mark=True)
        assert "mark_replaced" in result.flags and original[20:2000] not in result.data


def test_a_mark_in_a_file_that_no_longer_decodes_leads_to_a_refusal() -> None:
    from rid.models.photo_files.photos import PhotoRefused

    data = protector().protect(photo("jpeg")).data
    assert mark_of(data[: len(data) // 2]) is not None
    with pytest.raises(PhotoRefused, match="truncated"):
        protector().protect(data[: len(data) // 2], known_mark=True)


def test_a_policy_without_marks_takes_old_ones_away() -> None:
    once = protector().protect(photo("jpeg")).data
    result = protector(mark=False).protect(once)
    assert mark_of(result.data) is None and MARK_NAMESPACE.encode() not in result.data
    assert result.flags == ("mark_replaced",) and result.pixels_sha256 is None
    plain = protector(mark=False).protect(photo("jpeg"))
    assert plain.data == protector(None).protect(photo("jpeg")).data and plain.flags == ()


@pytest.mark.parametrize("packet", [b"<x>no RDF</x>", b"broken <", OWNERS + b" " * (65_500 - len(OWNERS))])
def test_a_packet_without_room_or_sense_stays_and_the_mark_is_left_out(packet: bytes) -> None:
    data = with_packet(photo("jpeg"), packet)
    result = protector(data_mining="DMI-PROHIBITED").protect(data)
    assert result.flags == ("mark_left_out", "data_mining_left_out") and result.pixels_sha256 is None
    assert decode(result.data, POLICY).xmp == packet
    if packet.startswith(OWNERS):
        old = with_mark(OWNERS, Mark("1" * 64, 1, "2" * 64))
        full = with_packet(data, old + b" " * (65_504 - len(old)))
        assert protector().protect(full).flags == ("mark_replaced",)  # the new mark fits where the old one was
        assert protector(data_mining="DMI-PROHIBITED").protect(full).flags == ("mark_replaced", "mark_left_out")
        roomy = with_packet(data, OWNERS + b" " * 60_000 + b"<?xpacket end='w'?>")
        assert protector().protect(roomy).flags == ()


@pytest.mark.parametrize("name", ["jpeg", "png", "webp lossy", "tiff"])
def test_the_word_on_data_mining_goes_into_every_format(name: str) -> None:
    result = protector(data_mining="DMI-PROHIBITED-AIMLTRAINING").protect(photo(name))
    packet = decode(result.data, POLICY).xmp
    assert Packet(packet).values(NAMESPACE, NAME) == [VOCABULARY + "DMI-PROHIBITED-AIMLTRAINING"]
    assert read_mark(packet) is not None
    alone = protector(mark=False, data_mining="DMI-PROHIBITED").protect(result.data)
    assert Packet(decode(alone.data, POLICY).xmp).values(NAMESPACE, NAME) == [VOCABULARY + "DMI-PROHIBITED"]
    looser = protector(data_mining="DMI-PROHIBITED-GENAIMLTRAINING").protect(alone.data)
    assert Packet(decode(looser.data, POLICY).xmp).values(NAMESPACE, NAME) == [VOCABULARY + "DMI-PROHIBITED"]


def test_a_mark_names_no_person_place_or_path() -> None:
    data = protector().protect(photo("jpeg"), "/home/someone/holidays/portrait.jpg").data
    packet = decode(data, POLICY).xmp.decode()
    assert not any(word in packet for word in ("someone", "holidays", "portrait", "/home"))
    mark = read_mark(packet.encode())
    rest = packet.replace(mark.defender_digest, "").replace(mark.pixels_sha256, "")
    assert rest == with_mark(b"", Mark("", 6, "")).decode()

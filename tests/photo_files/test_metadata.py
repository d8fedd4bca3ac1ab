"""Metadata goes with a protected photo; pictures of the unprotected original do not."""

import base64
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from metadata_blocks import (
    ICC,
    IPTC,
    PHOTOSHOP,
    THUMBNAIL,
    XMP,
    XMP_EXTENSION,
    exif_block,
    other_pictures,
    resource,
    with_segments,
)
from odd_photos import encoded, photograph
from PIL import Image
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.photo_files.images import decode
from rid.models.photo_files.jpeg.segments import APP0, APP1, APP2, APP13, COM, Segment, read_header_segments
from rid.models.photo_files.metadata import (
    CleanBlock,
    clean_exif,
    clean_iptc,
    clean_photoshop,
    clean_xmp,
    exif_orientation,
    exif_with_orientation,
)
from rid.models.photo_files.photos import PhotoRefused
from rid.models.photo_files.png.chunks import Chunk, read_chunks
from rid.models.photo_files.tiff.directory import Entry, first_directory, read_directory, with_entries
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector


@pytest.fixture(scope="module")
def protector() -> Protector:
    return Protector(OnnxEngine(build_model()), ProtectionPolicy(), 6)


# ------------------------------------------------------------------------------------------------------ the blocks


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_keeps_its_values_and_loses_its_pictures(order: str) -> None:
    note = b"Maker\x00 notes " + THUMBNAIL
    block = clean_exif(exif_block(order=order, thumbnail=THUMBNAIL, maker_note=note))
    exif = Image.Exif()
    exif.load(b"Exif\x00\x00" + block.data)
    assert exif[0x010E] == "a description" and exif[0x0112] == 6
    assert exif.get_ifd(0x8769)[0x927C] == b"Maker\x00 notes " + bytes(len(THUMBNAIL))
    assert block.renditions and not block.damaged
    assert not other_pictures(block.data) and b"\xff\xd8\xff" not in block.data
    assert len(block.data) < len(exif_block(order=order, maker_note=note)) + 8
    assert clean_exif(block.data).data == block.data and not clean_exif(block.data).renditions


def test_exif_without_pictures_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 3
    exif.get_ifd(0x8769)[0x829A] = 0.01
    data = exif.tobytes().removeprefix(b"Exif\x00\x00")
    block = clean_exif(data)
    assert block.data.rstrip(b"\x00") == data.rstrip(b"\x00") and block.flags == ()


def test_an_uncompressed_thumbnail_leaves_no_byte() -> None:
    pixels = np.asarray(photograph(80, 60)).tobytes()
    block = clean_exif(exif_block(thumbnail=pixels))
    assert block.renditions and pixels[:64] not in block.data


@pytest.mark.parametrize("cut", range(0, 120, 3))
def test_a_broken_exif_block_never_raises(cut: int) -> None:
    whole = exif_block(thumbnail=THUMBNAIL, maker_note=b"note")
    assert not other_pictures(clean_exif(whole[:cut]).data)
    random = bytearray(whole[:200])
    for at in np.random.default_rng(cut).integers(4, 200, 6):
        random[at] ^= 0xFF
    clean_exif(bytes(random))
    assert 1 <= exif_orientation(bytes(random)) <= 8


def test_a_directory_that_points_at_itself_ends() -> None:
    data = bytearray(exif_block())
    data[8 + 2 + 24 + 8 : 8 + 2 + 24 + 12] = struct.pack("<I", 8)
    assert clean_exif(bytes(data)).data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_smallest_exif_block_says_the_orientation(orientation: int) -> None:
    block = exif_with_orientation(orientation)
    assert exif_orientation(block) == orientation
    assert (block == b"") == (orientation == 1)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_upright(value: int) -> None:
    assert exif_orientation(exif_block(orientation=value)) == 1


def test_xmp_loses_base64_pictures_in_elements_and_attributes() -> None:
    picture = base64.b64encode(THUMBNAIL)
    lines = b"&#xA;".join(picture[at : at + 76] for at in range(0, len(picture), 76))
    packet = b'<x xmpNote:HasExtendedXMP="AB" GImage:Data="%s"><i>%s</i><dc:title>kept</dc:title></x>' % (
        picture,
        lines,
    )
    block = clean_xmp(packet)
    assert block.renditions and b"kept" in block.data and b"HasExtendedXMP" not in block.data
    assert b"/9j/" not in block.data and not other_pictures(block.data)
    for wrap in (b"", b"\n", b"&#xA;\t", b"&#10; "):
        unknown = wrap.join(b"AAAAGGZ0eXBoZWlj" * 4 + b"%04d" % n for n in range(20))
        assert clean_xmp(b"<x>" + unknown + b"==</x>").data == b"<x></x>"
    words = b"<x>" + b"words of seventy letters without a blank are not pictures ".replace(b" ", b"") + b"</x>"
    assert clean_xmp(words).data == words
    assert clean_xmp(b"<x>plain</x>" + b" " * 2000).data == b"<x>plain</x>" + b" " * 2000


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_xmp_of_wide_characters_is_kept_as_utf8(encoding: str) -> None:
    block = clean_xmp("<x>Zoë</x>".encode(encoding))
    assert block.data.decode().lstrip("\ufeff") == "<x>Zoë</x>" and block.flags == ()


def test_xmp_that_cannot_be_searched_is_left_out() -> None:
    for packet in ("<x>kept</x>".encode("utf-16-le"), b"<x>\x00kept</x>", b"\xff\xfe<\x00\x00\xd8"):
        block = clean_xmp(packet)
        assert block.data == b"" and block.damaged


def test_photoshop_resources_keep_iptc_and_lose_thumbnails() -> None:
    iptc = resource(0x0404, IPTC)
    block = clean_photoshop(resource(0x040C, b"\x00" * 28 + THUMBNAIL) + iptc + resource(0x0409, b"odd"))
    assert block.data == iptc and block.renditions and not block.damaged
    assert clean_photoshop(iptc + b"8BIM\x04\x0c\x00\x00\xff\xff\xff\xff" + THUMBNAIL).data == iptc


def dataset(number: int, data: bytes) -> bytes:
    """One IPTC dataset of record 2; a long one has a length of four bytes."""
    length = len(data).to_bytes(2, "big") if len(data) < 0x8000 else b"\x80\x04" + len(data).to_bytes(4, "big")
    return b"\x1c\x02" + bytes((number,)) + length + data


@pytest.mark.parametrize("filling", [b"", bytes(40_000)])
def test_iptc_loses_its_preview_and_keeps_the_rest(filling: bytes) -> None:
    words, more = dataset(120, b"a caption"), dataset(25, b"a keyword")
    records = words + dataset(202, filling + THUMBNAIL) + more
    assert clean_iptc(records) == CleanBlock(words + more, renditions=True)
    assert clean_iptc(words + more + b"\x00\x00") == CleanBlock(words + more + b"\x00\x00")
    assert clean_iptc(words + b"\x1c\x02\xca\xff\xff" + THUMBNAIL).data == words
    block = clean_photoshop(resource(0x0404, records) + resource(0x03ED, b"16 bytes of size"))
    assert block.data == resource(0x0404, words + more) + resource(0x03ED, b"16 bytes of size")
    assert block.flags == ("renditions_removed",)
    tiff = with_entries(encoded(photograph(), "TIFF"), (Entry(33723, 7, len(records), records),), ())
    photo = decode(tiff, ProtectionPolicy())
    assert photo.encoding.entries == (Entry(33723, 7, len(words + more), words + more),)


# ------------------------------------------------------------------------------------------------------- the files


def hostile_jpeg() -> bytes:
    """A JPEG with every kind of metadata, and a picture in every place that can hold one."""
    picture = base64.b64encode(THUMBNAIL)
    segments = [
        Segment(APP0, b"JFXX\x00\x10" + THUMBNAIL),
        Segment(APP1, b"Exif\x00\x00" + exif_block(thumbnail=THUMBNAIL, maker_note=b"n" + THUMBNAIL)),
        Segment(APP1, XMP + b"<x><t>" + picture + b"</t><dc:title>kept title</dc:title></x>"),
        Segment(APP1, XMP_EXTENSION + b"A" * 40 + picture),
        Segment(APP2, b"ICC_PROFILE\x00\x01\x02" + ICC[:300]),
        Segment(APP2, b"ICC_PROFILE\x00\x02\x02" + ICC[300:]),
        Segment(APP2, b"MPF\x00" + bytes(80)),
        Segment(APP2, b"FPXR\x00\x00" + THUMBNAIL),
        Segment(0xE4, b"maker preview" + THUMBNAIL),
        Segment(0xEB, b"JP\x00\x01" + THUMBNAIL),
        Segment(0xE7, b"another preview" + encoded(photograph(80, 60), "WEBP")),
        Segment(APP13, PHOTOSHOP + resource(0x0404, IPTC) + resource(0x040C, bytes(28) + THUMBNAIL)[:900]),
        Segment(APP13, PHOTOSHOP + resource(0x040C, bytes(28) + THUMBNAIL)[900:]),
        Segment(COM, b"a comment"),
        Segment(COM, b"a second one" + THUMBNAIL),
    ]
    return with_segments(encoded(photograph(), dpi=(300, 300)), *segments) + THUMBNAIL + b"tail" + encoded(photograph())


def test_a_jpeg_keeps_its_metadata(protector: Protector) -> None:
    result = protector.protect(hostile_jpeg())
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.format == "JPEG"
        assert after.info["icc_profile"] == ICC
        assert after.info["dpi"] == (300, 300)
        assert after.info["comment"] == b"a comment"
        assert b"kept title" in after.info["xmp"]
        assert after.getexif()[0x010E] == "a description" and after.getexif()[0x0112] == 6
        assert after.info["photoshop"][0x0404] == IPTC
        assert 0x040C not in after.info["photoshop"]
    assert {"renditions_removed", "metadata_dropped", "trailing_bytes_removed"} <= set(result.flags)


def test_no_other_picture_is_in_a_protected_jpeg(protector: Protector) -> None:
    data = hostile_jpeg()
    assert len(other_pictures(data)) >= 10
    assert other_pictures(protector.protect(data).data) == []


def extension_segments(extension: bytes, digest: bytes, size: int = 65_000) -> list[Segment]:
    """The segments of an extended XMP packet, the last part first."""
    length = len(extension).to_bytes(4, "big")
    parts = [
        XMP_EXTENSION + digest + length + at.to_bytes(4, "big") + extension[at : at + size]
        for at in range(0, len(extension), size)
    ]
    return [Segment(APP1, part) for part in reversed(parts)]


@pytest.mark.parametrize("form", ["attribute", "element"])
def test_an_extended_xmp_packet_is_kept_without_its_pictures(protector: Protector, form: str) -> None:
    picture = base64.b64encode(THUMBNAIL)
    extension = b"<x><i>" + picture + b"</i><t>" + b"kept words, " * 8000 + b"</t></x>"
    digest = hashlib.md5(extension).hexdigest().upper().encode()
    reference = b'<x xmpNote:HasExtendedXMP="%s"/>' % digest
    if form == "element":
        reference = b"<x><xmpNote:HasExtendedXMP>%s</xmpNote:HasExtendedXMP></x>" % digest
    segments = [Segment(APP1, XMP + reference), *extension_segments(extension, digest)]
    result = protector.protect(with_segments(encoded(photograph()), *segments))
    payloads = [s.payload for s in read_header_segments(result.data).header if s.marker == APP1]
    clean = extension.replace(picture, b"")
    new = hashlib.md5(clean).hexdigest().upper().encode()
    assert payloads[0] == XMP + reference.replace(digest, new)
    assert [p[len(XMP_EXTENSION) :][:32] for p in payloads[1:]] == [new, new]
    assert b"".join(p[len(XMP_EXTENSION) + 40 :] for p in payloads[1:]) == clean
    assert result.flags == ("renditions_removed",)
    again = protector.protect(result.data)
    assert read_header_segments(again.data).header == read_header_segments(result.data).header and again.flags == ()


@pytest.mark.parametrize("fault", ["missing part", "other digest", "no reference", "second packet"])
def test_an_extension_that_is_not_whole_is_left_out_and_flagged(protector: Protector, fault: str) -> None:
    extension = b"<x>" + b"some words, " * 8000 + b"</x>"
    digest = hashlib.md5(extension).hexdigest().upper().encode()
    packet = b"<x/>" if fault == "no reference" else b'<x xmpNote:HasExtendedXMP="%s"/>' % digest
    parts = extension_segments(extension, b"0" * 32 if fault == "other digest" else digest)
    parts = parts[:1] if fault == "missing part" else parts
    extra = [Segment(APP1, XMP + b"<y/>")] if fault == "second packet" else []
    result = protector.protect(with_segments(encoded(photograph()), Segment(APP1, XMP + packet), *extra, *parts))
    assert result.flags == ("metadata_dropped",)
    payloads = [s.payload for s in read_header_segments(result.data).header if s.marker == APP1]
    assert payloads[0] == XMP + {"second packet": packet, "no reference": packet}.get(fault, b"<x />")
    assert len(payloads) == (3 if fault == "second packet" else 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_colour_profile_stays_unless_it_hides_a_picture(protector: Protector, kind: str) -> None:
    """A table of colours can begin like a JPEG by chance; dropping it would change every colour."""
    options = {"lossless": True} if kind == "WEBP" else {}
    chance = ICC + b"\xff\xd8\xff\xe0 not a picture" * 3000
    hiding = ICC + bytes(64_000) + THUMBNAIL
    for profile in (chance, hiding):
        profile = len(profile).to_bytes(4, "big") + profile[4:]
        data = encoded(photograph(), kind, icc_profile=profile, **options)
        result = protector.protect(data)
        with Image.open(io.BytesIO(result.data)) as after:
            kept = after.info.get("icc_profile")
        assert (kept == profile) == (THUMBNAIL not in profile)
        assert ("renditions_removed" in result.flags) == (THUMBNAIL in profile)
        if THUMBNAIL in profile:
            assert other_pictures(data) and other_pictures(result.data) == []


def test_an_exif_block_that_cannot_be_read_is_left_out_but_not_its_photo(protector: Protector) -> None:
    data = with_segments(encoded(photograph()), Segment(APP1, b"Exif\x00\x00nonsense" + THUMBNAIL))
    result = protector.protect(data)
    assert "metadata_damaged" in result.flags and other_pictures(result.data) == []


def test_a_long_photoshop_block_is_split_over_segments_again(protector: Protector) -> None:
    block = resource(0x0404, IPTC) + resource(0x0BB7, b"x" * 90_000)
    segments = [Segment(APP13, PHOTOSHOP + block[at : at + 60_000]) for at in (0, 60_000)]
    result = protector.protect(with_segments(encoded(photograph()), *segments))
    kept = [s.payload[len(PHOTOSHOP) :] for s in read_header_segments(result.data).header if s.marker == APP13]
    assert b"".join(kept) == block and len(kept) == 2


def test_png_chunks_travel_and_their_pictures_do_not(protector: Protector) -> None:
    plain = encoded(photograph(), "PNG")
    text = b"kept value"
    profile = b"\nother\n    %d\n" % len(THUMBNAIL) + THUMBNAIL.hex().encode()
    kept = [
        Chunk(b"gAMA", (45_455).to_bytes(4, "big")),
        Chunk(b"pHYs", struct.pack(">IIB", 3780, 3780, 1)),
        Chunk(b"iCCP", b"profile\x00\x00" + zlib.compress(ICC)),
        Chunk(b"tEXt", b"Title\x00" + text),
        Chunk(b"zTXt", b"Author\x00\x00" + zlib.compress(text)),
        Chunk(b"iTXt", b"Title\x00\x01\x00en\x00titre\x00" + zlib.compress(text)),
        Chunk(b"tIME", bytes(7)),
        Chunk(b"prVt", b"a private chunk that is safe to copy"),
    ]
    dropped = [
        Chunk(b"zTXt", b"Raw profile type other\x00\x00" + zlib.compress(profile)),
        Chunk(b"tEXt", b"preview\x00" + base64.b64encode(THUMBNAIL)),
        Chunk(b"caBX", THUMBNAIL),
        Chunk(b"prVw", THUMBNAIL),
        Chunk(b"noTS", b"an unknown chunk that is not safe to copy"),
    ]
    xmp = b"XML:com.adobe.xmp\x00\x00\x00\x00\x00<x>kept title<i>" + base64.b64encode(THUMBNAIL) + b"</i></x>"
    changed = [Chunk(b"iTXt", xmp), Chunk(b"eXIf", exif_block(thumbnail=THUMBNAIL))]
    damaged = Chunk(b"tEXt", b"broken\x00checksum").to_bytes()[:-1] + b"?"
    extra = b"".join(chunk.to_bytes() for chunk in (*kept, *dropped, *changed)) + damaged
    data = plain[:33] + extra + plain[33:] + b"tail" + THUMBNAIL
    assert len(other_pictures(data)) >= 5
    result = protector.protect(data)
    written = read_chunks(result.data).chunks
    assert [chunk for chunk in written if chunk in kept] == kept
    assert not any(chunk in written for chunk in (*dropped, *changed))
    assert other_pictures(result.data) == []
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.getexif()[0x0112] == 6
        assert b"kept title" in after.info["xmp"]
        assert after.info["icc_profile"] == ICC
    flags = {"renditions_removed", "metadata_dropped", "metadata_damaged", "trailing_bytes_removed"}
    assert flags <= set(result.flags)


@pytest.mark.parametrize(
    ("name", "data", "kept"),
    [
        (b"exif", b"Exif\x00\x00" + exif_block(thumbnail=THUMBNAIL), b"a description"),
        (b"iptc", PHOTOSHOP + resource(0x0404, IPTC) + resource(0x040C, bytes(28) + THUMBNAIL), IPTC),
        (b"8bim", resource(0x0404, IPTC) + resource(0x040C, bytes(28) + THUMBNAIL), IPTC),
        (b"xmp", b"<x>kept<i>" + base64.b64encode(THUMBNAIL) + b"</i></x>", b"<x>kept<i></i></x>"),
        (b"APP1", XMP + b"<x>kept<i>" + base64.b64encode(THUMBNAIL) + b"</i></x>", XMP + b"<x>kept<i></i></x>"),
        (b"other", b"no picture", b"no picture"),
    ],
)
@pytest.mark.parametrize("kind", [b"zTXt", b"tEXt"])
def test_raw_profiles_of_a_png_are_kept_without_pictures(
    protector: Protector, name: bytes, data: bytes, kept: bytes, kind: bytes
) -> None:
    text = b"\n%s\n%8d\n" % (name, len(data)) + data.hex().encode() + b"\n"
    stored = b"\x00" + zlib.compress(text) if kind == b"zTXt" else text
    plain = encoded(photograph(), "PNG")
    chunk = Chunk(kind, b"Raw profile type " + name + b"\x00" + stored)
    result = protector.protect(plain[:33] + chunk.to_bytes() + plain[33:])
    (written,) = [c for c in read_chunks(result.data).chunks if c.kind == kind]
    _, _, rest = written.data.partition(b"\x00")
    lines = (zlib.decompress(rest[1:]) if kind == b"zTXt" else rest).split(b"\n")
    clean = bytes.fromhex(b"".join(lines[3:]).decode())
    assert lines[1] == name and int(lines[2]) == len(clean) and kept in clean
    assert other_pictures(result.data) == []
    assert result.flags == (() if name == b"other" else ("renditions_removed",))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}])
def test_webp_keeps_its_metadata(protector: Protector, options: dict[str, object]) -> None:
    xmp = b"<x>kept title<i>" + base64.b64encode(THUMBNAIL) + b"</i></x>"
    exif = exif_block(thumbnail=THUMBNAIL)
    data = encoded(photograph(), "WEBP", exif=exif, xmp=xmp, icc_profile=ICC, **options) + THUMBNAIL
    assert other_pictures(data)
    result = protector.protect(data)
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.info["icc_profile"] == ICC and b"kept title" in after.info["xmp"]
        assert after.getexif()[0x0112] == 6 and after.getexif()[0x010E] == "a description"
    assert other_pictures(result.data) == []
    assert {"renditions_removed", "trailing_bytes_removed"} <= set(result.flags)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_keeps_its_tags(protector: Protector, compression: str, order: str) -> None:
    text = "Zoë".encode() + b"\x00"
    exif = (Entry(0x9003, 2, 20, b"2024:01:02 03:04:05\x00"), Entry(0x829A, 5, 1, struct.pack("<II", 1, 250)))
    note = Entry(0x927C, 7, 4 + len(THUMBNAIL), b"note" + THUMBNAIL)
    entries = (
        Entry(0x010E, 2, len(text), text),
        Entry(0x0112, 3, 1, b"\x08\x00"),
        Entry(0x011A, 5, 1, struct.pack("<II", 200, 1)),
        Entry(0x0128, 3, 1, b"\x02\x00"),
        Entry(34675, 7, len(ICC), ICC),
        Entry(33723, 7, len(IPTC), IPTC),
    )
    sub_picture = Entry(330, 4, 1, struct.pack("<I", 8))
    plain = encoded(photograph(), "TIFF", compression=compression)
    data = with_entries(plain, (*entries, sub_picture), ((34665, (*exif, note)), (34853, (Entry(1, 2, 2, b"N\x00"),))))
    assert other_pictures(data)
    result = protector.protect(data if order == "<" else big_endian(data))
    written = read_directory(result.data, first_directory(result.data))
    assert [written.get(entry.tag) for entry in entries] == list(entries)
    assert written.get(330) is None
    inner = read_directory(result.data, int.from_bytes(written.get(34665).value, "little"))
    assert set(inner.entries) == set(exif) and not inner.damaged
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.getexif().get_ifd(34853)[1] == "N"
        assert after.info["dpi"][0] == 200 and after.info["icc_profile"] == ICC
        assert after.info["compression"] == compression
    assert other_pictures(result.data) == []
    assert {"metadata_dropped", "renditions_removed"} <= set(result.flags)


@pytest.mark.parametrize("reduced", [True, False])
def test_a_smaller_version_in_a_tiff_is_a_rendition_and_another_page_is_not(
    protector: Protector, reduced: bool
) -> None:
    out = io.BytesIO()
    small = photograph(80, 60)
    small.encoderinfo = {"tiffinfo": {254: int(reduced)}}
    photograph().save(out, "TIFF", save_all=True, append_images=[small])
    if not reduced:
        with pytest.raises(PhotoRefused, match="several pages"):
            protector.protect(out.getvalue())
        return
    result = protector.protect(out.getvalue())
    assert result.flags == ("renditions_removed",)
    with Image.open(io.BytesIO(result.data)) as after:
        assert after.n_frames == 1 and after.size == (300, 240)
    assert small.tobytes()[:600] not in result.data


def test_tags_of_a_tiff_that_are_not_kept_are_flagged(protector: Protector) -> None:
    layers = Entry(37724, 7, 40, b"Adobe Photoshop Document Data Block" + bytes(5))
    white = Entry(318, 5, 2, struct.pack("<IIII", 3127, 10_000, 3290, 10_000))
    result = protector.protect(with_entries(encoded(photograph(), "TIFF"), (layers, white), ()))
    written = read_directory(result.data, first_directory(result.data))
    assert written.get(318) == white and written.get(37724) is None
    assert result.flags == ("metadata_dropped",)


def big_endian(data: bytes) -> bytes:
    """The same single-picture TIFF of 8-bit samples in the other byte order."""
    out = bytearray(data)
    out[:4] = b"MM\x00*"
    words = {3: "H", 4: "I", 5: "I"}

    def turn(directory: int) -> None:
        (count,) = struct.unpack_from("<H", data, directory)
        struct.pack_into(">H", out, directory, count)
        for at in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, number, where = struct.unpack_from("<HHII", data, at)
            struct.pack_into(">HHI", out, at, tag, kind, number)
            code = f"{number * (2 if kind == 5 else 1)}{words.get(kind, 's')}"
            size = struct.calcsize("<" + code)
            if size > 4:
                struct.pack_into(">I", out, at + 8, where)
            start = where if size > 4 else at + 8
            struct.pack_into(">" + code, out, start, *struct.unpack_from("<" + code, data, start))
            if tag in (34665, 34853):
                turn(where)

    (first,) = struct.unpack_from("<I", data, 4)
    struct.pack_into(">I", out, 4, first)
    turn(first)
    return bytes(out)


def test_metadata_is_the_same_on_repeat(protector: Protector) -> None:
    digests = {hashlib.sha256(protector.protect(hostile_jpeg()).data).hexdigest() for _ in range(2)}
    assert len(digests) == 1
    once = protector.protect(hostile_jpeg()).data
    again = protector.protect(once)
    assert read_header_segments(again.data).header == read_header_segments(once).header
    assert again.flags == ()

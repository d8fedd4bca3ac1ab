"""Metadata goes with a protected photo; pictures of the unprotected original do not."""

import base64
import hashlib
import io
import re
import struct
import zlib

import numpy as np
import pytest
from odd_photos import encoded, photograph
from PIL import Image, ImageCms
from tiny_defender import build_model

from models.codecs.jpeg_segments import APP0, APP1, APP2, APP13, COM, Segment, read_header_segments
from models.codecs.png_chunks import Chunk, read_chunks
from models.codecs.tiff_directory import Entry, first_directory, read_directory, with_entries
from models.engines import OnnxEngine
from models.metadata import clean_exif, clean_photoshop, clean_xmp, exif_orientation, exif_with_orientation
from models.policy import ProtectionPolicy
from models.protector import Protector

THUMBNAIL = encoded(photograph(80, 60), quality=60)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"http://ns.adobe.com/xap/1.0/\x00"
PHOTOSHOP = b"Photoshop 3.0\x00"
IPTC = b"\x1c\x02\x78\x00\x09a caption"


@pytest.fixture(scope="module")
def protector() -> Protector:
    return Protector(OnnxEngine(build_model()), ProtectionPolicy(), 6)


def exif_block(*, order: str = "<", orientation: int = 6, thumbnail: bytes = b"", maker_note: bytes = b"") -> bytes:
    """An EXIF block with a description, an Exif directory with a MakerNote, and IFD1 with a thumbnail."""
    text = b"a description\x00"
    ifd0, entries = 8, 3
    text_at = ifd0 + 2 + 12 * entries + 4
    exif_at = text_at + len(text)
    note_at = exif_at + 2 + 12 + 4
    ifd1_at = note_at + len(maker_note)
    thumbnail_at = ifd1_at + 2 + 24 + 4
    pack = lambda code, *values: struct.pack(order + code, *values)  # noqa: E731
    return b"".join(
        [
            b"II*\x00" if order == "<" else b"MM\x00*",
            pack("I", ifd0),
            pack("H", entries),
            pack("HHII", 0x010E, 2, len(text), text_at),
            pack("HHIHH", 0x0112, 3, 1, orientation, 0),
            pack("HHII", 0x8769, 4, 1, exif_at),
            pack("I", ifd1_at if thumbnail else 0),
            text,
            pack("H", 1),
            pack("HHII", 0x927C, 7, len(maker_note), note_at),
            pack("I", 0),
            maker_note,
            pack("H", 2) + pack("HHII", 0x0201, 4, 1, thumbnail_at) + pack("HHII", 0x0202, 4, 1, len(thumbnail))
            if thumbnail
            else b"",
            pack("I", 0) + thumbnail if thumbnail else b"",
        ]
    )


def resource(code: int, data: bytes) -> bytes:
    """One Photoshop image resource."""
    return b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + b"\x00" * (len(data) % 2)


def with_segments(data: bytes, *segments: Segment) -> bytes:
    """Puts segments in front of a JPEG's own ones, after JFIF."""
    own = read_header_segments(data).header
    jfif = own[0].to_bytes() if own[0].marker == APP0 else b""
    return data[:2] + jfif + b"".join(s.to_bytes() for s in segments) + data[2 + len(jfif) :]


def other_pictures(data: bytes) -> list[int]:
    """Where a picture other than the file itself can be decoded: raw, deflated, hexadecimal or in base64."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        for chunk in read_chunks(data).chunks:
            if chunk.kind in (b"zTXt", b"iTXt"):
                for start in (2, 5):
                    try:
                        data += zlib.decompress(chunk.data[chunk.data.index(b"\x00") + start :])
                    except zlib.error:
                        continue
    found = []
    runs = re.finditer(rb"(?:[A-Za-z0-9+/=]|\s|&#xA;){200,}", data)
    texts = [re.sub(rb"\s|&#xA;", b"", run.group()) for run in runs]
    plain = [base64.b64decode(text + b"=" * (-len(text) % 4)) for text in texts if b"/9j/" in text or b"iVBOR" in text]
    plain += [bytes.fromhex(text.decode()) for text in texts if re.fullmatch(rb"(?:[0-9a-f]{2})+", text)]
    for number, block in enumerate([data, *plain]):
        for mark in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
            for match in re.finditer(re.escape(mark), block):
                if number == 0 and match.start() == 0:
                    continue
                try:
                    Image.open(io.BytesIO(block[match.start() :])).load()
                except (OSError, SyntaxError):
                    continue
                found.append(match.start())
    return found


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
    assert clean_xmp(b"<x>plain</x>" + b" " * 2000).data == b"<x>plain</x>" + b" " * 2000


def test_xmp_that_cannot_be_searched_is_left_out() -> None:
    block = clean_xmp("<x>kept</x>".encode("utf-16"))
    assert block.data == b"" and block.damaged


def test_photoshop_resources_keep_iptc_and_lose_thumbnails() -> None:
    iptc = resource(0x0404, IPTC)
    block = clean_photoshop(resource(0x040C, b"\x00" * 28 + THUMBNAIL) + iptc + resource(0x0409, b"odd"))
    assert block.data == iptc and block.renditions and not block.damaged
    assert clean_photoshop(iptc + b"8BIM\x04\x0c\x00\x00\xff\xff\xff\xff" + THUMBNAIL).data == iptc


# ------------------------------------------------------------------------------------------------------- the files


def hostile_jpeg() -> bytes:
    """A JPEG with every kind of metadata, and a picture in every place that can hold one."""
    picture = base64.b64encode(THUMBNAIL)
    segments = [
        Segment(APP0, b"JFXX\x00\x10" + THUMBNAIL),
        Segment(APP1, b"Exif\x00\x00" + exif_block(thumbnail=THUMBNAIL, maker_note=b"n" + THUMBNAIL)),
        Segment(APP1, XMP + b"<x><t>" + picture + b"</t><dc:title>kept title</dc:title></x>"),
        Segment(APP1, b"http://ns.adobe.com/xmp/extension/\x00" + b"A" * 40 + picture),
        Segment(APP2, b"ICC_PROFILE\x00\x01\x02" + ICC[:300]),
        Segment(APP2, b"ICC_PROFILE\x00\x02\x02" + ICC[300:]),
        Segment(APP2, b"MPF\x00" + bytes(80)),
        Segment(APP2, b"FPXR\x00\x00" + THUMBNAIL),
        Segment(0xE4, b"maker preview" + THUMBNAIL),
        Segment(0xEB, b"JP\x00\x01" + THUMBNAIL),
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
    assert len(other_pictures(data)) >= 9
    assert other_pictures(protector.protect(data).data) == []


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
    profile = b"\nexif\n    %d\n" % len(THUMBNAIL) + THUMBNAIL.hex().encode()
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
        Chunk(b"zTXt", b"Raw profile type exif\x00\x00" + zlib.compress(profile)),
        Chunk(b"tEXt", b"preview\x00" + base64.b64encode(THUMBNAIL)),
        Chunk(b"caBX", THUMBNAIL),
        Chunk(b"prVw", THUMBNAIL),
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

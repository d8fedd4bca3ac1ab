"""Metadata of every kind, to be put into photos; and a search for pictures that are hidden in a file."""

import base64
import contextlib
import io
import re
import struct
import zlib

from odd_photos import encoded, photograph
from PIL import Image, ImageCms

from rid.models.photo_files.jpeg.segments import APP0, APP1, APP13, Segment, read_header_segments
from rid.models.photo_files.png.chunks import Chunk, read_chunks
from rid.models.photo_files.tiff.directory import Entry, with_entries
from rid.models.photo_files.xmp import RDF

THUMBNAIL = encoded(photograph(80, 60), quality=60)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"http://ns.adobe.com/xap/1.0/\x00"
XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\x00"
PHOTOSHOP = b"Photoshop 3.0\x00"
IPTC = b"\x1c\x02\x78\x00\x09a caption"


def fully_described(kind: str, picture: Image.Image, **options: object) -> bytes:
    """A file with all the metadata that its format has room for: a thumbnail too where it has one for that."""
    exif = exif_block(thumbnail=THUMBNAIL)
    packet = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='{RDF}'/></x:xmpmeta>".encode()
    photoshop = resource(0x0404, IPTC)
    if kind == "JPEG":
        own = {"exif": b"Exif\x00\x00" + exif, "icc_profile": ICC, "dpi": (300, 300), "comment": b"a comment"}
        data = encoded(picture, kind, **own | options)
        extra = resource(0x040C, bytes(28) + THUMBNAIL)
        segments = Segment(APP13, PHOTOSHOP + photoshop + extra), Segment(APP1, XMP + packet)
        return with_segments(data, *segments) + THUMBNAIL
    if kind == "WEBP":
        return encoded(picture, kind, exif=exif, xmp=packet, icc_profile=ICC, **options)
    if kind == "TIFF":
        entries = (
            Entry(0x010E, 2, 14, b"a description\x00"),
            Entry(0x0112, 3, 1, b"\x06\x00"),
            Entry(34675, 7, len(ICC), ICC),
            Entry(33723, 7, len(IPTC), IPTC),
            Entry(700, 1, len(packet), packet),
            *(Entry(tag, 5, 1, struct.pack("<II", 300, 1)) for tag in (0x011A, 0x011B)),
            Entry(0x0128, 3, 1, b"\x02\x00"),
        )
        taken = (Entry(0x9003, 2, 20, b"2024:01:02 03:04:05\x00"),)
        return with_entries(encoded(picture, kind, **options), entries, ((34665, taken),))
    plain = encoded(picture, kind, icc_profile=ICC, dpi=(300, 300), **options)
    profile = b"\niptc\n%8d\n%s\n" % (len(photoshop), photoshop.hex().encode())
    chunks = (
        Chunk(b"gAMA", (45_455).to_bytes(4, "big")),
        Chunk(b"tEXt", b"Comment\x00a comment"),
        Chunk(b"zTXt", b"Raw profile type iptc\x00\x00" + zlib.compress(profile)),
        Chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + packet),
        Chunk(b"eXIf", exif),
    )
    return plain[:33] + b"".join(chunk.to_bytes() for chunk in chunks) + plain[33:] + THUMBNAIL


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


def hidden_blocks(data: bytes) -> list[bytes]:
    """Yields what lies deflated in the chunks of a PNG, or in pieces in the segments of a JPEG."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        blocks = []
        for chunk in read_chunks(data).chunks:
            if chunk.kind in (b"zTXt", b"iTXt", b"iCCP"):
                for start in (2, 5):
                    with contextlib.suppress(zlib.error):
                        blocks.append(zlib.decompress(chunk.data[chunk.data.index(b"\x00") + start :]))
        return blocks
    if data[:2] != b"\xff\xd8":
        return []
    segments = read_header_segments(data).header
    heads = {b"ICC_PROFILE\x00": 14, XMP_EXTENSION: len(XMP_EXTENSION) + 40, PHOTOSHOP: len(PHOTOSHOP)}
    return [b"".join(s.payload[cut:] for s in segments if s.payload.startswith(head)) for head, cut in heads.items()]


def other_pictures(data: bytes) -> list[int]:
    """Finds pictures other than the file itself: raw, deflated, in pieces, hexadecimal or in base64."""
    data += b"".join(hidden_blocks(data))
    found = []
    runs = re.finditer(rb"(?:[A-Za-z0-9+/=]|\s|&#xA;){200,}", data)
    texts = [re.sub(rb"\s|&#xA;", b"", run.group()) for run in runs]
    plain = [base64.b64decode(text + b"=" * (-len(text) % 4)) for text in texts if b"/9j/" in text or b"iVBOR" in text]
    plain += [bytes.fromhex(text.decode()) for text in texts if re.fullmatch(rb"(?:[0-9a-f]{2})+", text)]
    for number, block in enumerate([data, *plain]):
        for mark in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"):
            for match in re.finditer(re.escape(mark), block):
                if number == 0 and match.start() == 0:
                    continue
                try:
                    Image.open(io.BytesIO(block[match.start() :])).load()
                except (OSError, SyntaxError, ValueError):
                    continue
                found.append(match.start())
    return found

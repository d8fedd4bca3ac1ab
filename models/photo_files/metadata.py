"""Metadata that may go with a protected photo: everything except pictures of the unprotected original.

EXIF blocks carry thumbnails (IFD1, MakerNotes), XMP packets base64 pictures, Photoshop blocks a JPEG. Each cleaner
returns its block without them. What cannot be read cannot be cleaned and is left out: a metadata fault never loses
a photo.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

# Where a JPEG (some cameras write another first byte), PNG, WebP, HEIC, AVIF or JPEG XL begins inside a block.
PICTURE = re.compile(
    rb"\xff\xd8\xff|\xd8\xff[\xdb\xe0\xe1]|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|ftyp(?:hei|hev|mif1|msf1|avif)"
    rb"|JXL \r\n\x87\n",
    re.DOTALL,
)

ORIENTATION = 0x0112
SUB_DIRECTORIES = {0x8769, 0x8825, 0xA005}  # Exif, GPS, interoperability
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # by TIFF type

MAX_DIRECTORIES = 16  # of one EXIF block; four have a meaning, and one that points into many others is an attack

PHOTOSHOP = b"Photoshop 3.0\x00"
PHOTOSHOP_IPTC = 0x0404
PHOTOSHOP_PICTURES = {0x0409, 0x040C, 0x0422, 0x0423}  # thumbnails; EXIF copies, which hold thumbnails of their own

# A base64 picture, or any base64 too long to be text, in one run or in lines; XMP writes line ends as references.
_LINE_END = rb"(?:&#x?[0-9A-Fa-f]{1,4};|\s)"
BASE64_PICTURE = re.compile(
    rb"(?:/9j/|iVBORw0KGgo|UklGR|SUkqA|TU0AK)(?:[A-Za-z0-9+/=]|" + _LINE_END + rb"){60,}"
    rb"|(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{1024,}+|(?:[A-Za-z0-9+/]{60,}+"
    + _LINE_END
    + rb"++){8,}+[A-Za-z0-9+/]*+)={0,2}"
)
# Where an XMP packet names the digest of its extension, which only a JPEG has.
EXTENSION = re.compile(
    rb"xmpNote:HasExtendedXMP\s*=\s*(?:\"([^\"]*)\"|'([^']*)')"
    rb"|<xmpNote:HasExtendedXMP>([^<]*)</xmpNote:HasExtendedXMP>"
)
ENCODINGS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class CleanBlock:
    """A metadata block without pictures.

    Attributes:
        data: what may be written; empty if nothing may.
        renditions: whether a picture was removed.
        damaged: whether a part could not be read and was left out.
        dropped: whether what is no picture had to go with one.
    """

    data: bytes
    renditions: bool = False
    damaged: bool = False
    dropped: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags a photo gets for this block."""
        named = {
            "renditions_removed": self.renditions,
            "metadata_damaged": self.damaged,
            "metadata_dropped": self.dropped,
        }
        return tuple(flag for flag, holds in named.items() if holds)


def holds_picture(data: bytes) -> bool:
    """Returns whether a picture begins anywhere in `data`."""
    return PICTURE.search(data) is not None


def clean_profile(profile: bytes) -> CleanBlock:
    """Leaves out a colour profile that holds a picture.

    Its tables are long enough to hold the first bytes of a JPEG by chance, and dropping it would change the colours:
    only what goes on as a JPEG does is one.
    """
    hidden = any(
        found[0][:1] not in b"\xff\xd8" or _goes_on(profile, found.end()) for found in PICTURE.finditer(profile)
    )
    return CleanBlock(b"", renditions=True, dropped=True) if hidden else CleanBlock(profile)


def _goes_on(data: bytes, at: int) -> bool:
    """Returns whether marker segments lead from the one whose marker ends at `at` (or begins there) to a scan."""
    at -= data[at - 1] != 0xFF
    while 0 < at < len(data) - 2 and data[at - 1] == 0xFF and 0xC0 <= data[at] < 0xFF:
        if data[at] == 0xDA:
            return True
        at += 2 + int.from_bytes(data[at + 1 : at + 3], "big")
    return False


# ---------------------------------------------------------------------------------------------------------- EXIF


@dataclass
class _Walk:
    """The directories of one EXIF block, and the byte ranges that they use."""

    data: bytes
    order: str
    used: list[tuple[int, int]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    value_bytes: int = 0
    orientation: int = 1
    renditions: bool = False
    damaged: bool = False

    def number(self, code: str, offset: int) -> int:
        return int(struct.unpack_from(self.order + code, self.data, offset)[0])

    def directory(self, offset: int) -> None:
        """Marks a directory, its values and its sub-directories; what lies outside the block is damage."""
        if offset in self.seen:
            return
        self.seen.add(offset)
        if len(self.seen) > MAX_DIRECTORIES or offset < 8 or offset + 2 > len(self.data):
            self.damaged = True
            return
        count = self.number("H", offset)
        end = offset + 2 + 12 * count
        if end > len(self.data):
            self.damaged = True
            return
        self.used.append((offset, end))
        if end + 4 <= len(self.data) and self.number("I", end):
            self.renditions = True  # the next directory describes the thumbnail: its pointer stays zero
        for entry in range(offset + 2, end, 12):
            self.entry(entry)

    def entry(self, entry: int) -> None:
        tag, kind, count = self.number("H", entry), self.number("H", entry + 2), self.number("I", entry + 4)
        if tag in SUB_DIRECTORIES:
            self.directory(self.number("I", entry + 8))
            return
        if tag == ORIENTATION and kind == 3:
            value = self.number("H", entry + 8)
            if 1 <= value <= 8:
                self.orientation = value
            else:
                self.damaged = True
        size = VALUE_BYTES.get(kind, 0) * count
        if size > 4:
            start = self.number("I", entry + 8)
            self.value_bytes += size
            if start + size > len(self.data) or self.value_bytes > len(self.data):
                self.damaged = True  # values of more bytes than the block has lie on top of each other
            else:
                self.used.append((start, start + size))


def _walk(exif: bytes) -> _Walk | None:
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    walk = _Walk(exif, order)
    walk.directory(walk.number("I", 4))
    return walk


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation, 1 to 8, of an EXIF block that begins with its TIFF header; 1 if it has none."""
    walk = _walk(exif)
    return walk.orientation if walk else 1


def clean_exif(exif: bytes) -> CleanBlock:
    """Removes every embedded picture from an EXIF block that begins with its TIFF header.

    Values stay at their offsets, because MakerNotes point into the block. The pointer to IFD1 (the thumbnail) and
    every byte that no kept directory uses become zero; a value that holds a JPEG is zero from where that begins.
    """
    walk = _walk(exif)
    if walk is None or not walk.used:
        return CleanBlock(b"", holds_picture(exif), damaged=True)
    out = bytearray(max(end for _, end in walk.used) + 4)
    out[:8] = exif[:8]
    for start, end in walk.used:
        out[start:end] = exif[start:end]
    renditions = walk.renditions or holds_picture(exif)
    for start, end in walk.used:
        if picture := PICTURE.search(out, start, end):
            out[picture.start() : end] = bytes(end - picture.start())
    if holds_picture(bytes(out)):  # two values that overlap or touch: keep what viewers need and nothing else
        return CleanBlock(exif_with_orientation(walk.orientation), renditions=True, damaged=True)
    return CleanBlock(bytes(out), renditions, walk.damaged)


def exif_with_orientation(orientation: int) -> bytes:
    """Returns the smallest EXIF block that says how a picture is turned; nothing for orientation 1."""
    if orientation == 1:
        return b""
    return b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)


# ----------------------------------------------------------------------------------------------- XMP, Photoshop


def clean_text(text: bytes) -> CleanBlock:
    """Removes base64 pictures from a text or XMP packet in an encoding that extends ASCII."""
    cleaned = BASE64_PICTURE.sub(b"", text)
    if holds_picture(cleaned):
        return CleanBlock(b"", renditions=True, dropped=True)
    return CleanBlock(cleaned, renditions=cleaned != text)


def clean_xmp(packet: bytes, extension: bytes = b"") -> CleanBlock:
    """Removes base64 pictures from an XMP packet; it is UTF-8 afterwards.

    Args:
        packet: the packet.
        extension: the digest of the extended packet that goes with it; without one, it names none any more.
    """
    text = _as_utf8(packet)
    if text is None:
        return CleanBlock(b"", damaged=True)
    block = clean_text(text)
    reference = b'xmpNote:HasExtendedXMP="' + extension + b'"' if extension else b""
    element = b"<xmpNote:HasExtendedXMP>" + extension + b"</xmpNote:HasExtendedXMP>" if extension else b""
    data = EXTENSION.sub(lambda found: element if found[0][:1] == b"<" else reference, block.data)
    return CleanBlock(data, block.renditions, dropped=block.dropped)


def _as_utf8(packet: bytes) -> bytes | None:
    """The packet in an encoding that extends ASCII; None if it has zeros and does not say how to read them."""
    if b"\x00" not in packet.rstrip(b"\x00"):
        return packet
    encoding = next((name for mark, name in ENCODINGS.items() if packet.startswith(mark)), "")
    try:
        return packet.decode(encoding).encode() if encoding else None
    except UnicodeError:
        return None


def clean_iptc(records: bytes) -> CleanBlock:
    """Removes the datasets of an IPTC block that hold a picture, such as the preview 2:202.

    IIM 4.2: a dataset is 0x1C, record, number and a length of two bytes, or of as many as those count if they are over
    0x8000. What comes after the last dataset is filling, and left out where anything is.
    """
    kept, at = [], 0
    while at + 5 <= len(records) and records[at] == 0x1C:
        size, start = int.from_bytes(records[at + 3 : at + 5], "big"), at + 5
        if size & 0x8000:
            start += size & 0x7FFF
            size = int.from_bytes(records[at + 5 : start], "big")
        end = start + size
        if end > len(records):
            break
        if not holds_picture(records[at:end]):
            kept.append(records[at:end])
        at = end
    data = b"".join(kept)
    return CleanBlock(records) if not holds_picture(records) else CleanBlock(data, renditions=True)


def clean_photoshop(resources: bytes) -> CleanBlock:
    """Removes thumbnails from Photoshop image resources (8BIM blocks), which also carry IPTC."""
    kept, at, renditions = [], 0, False
    while at + 12 <= len(resources):
        if resources[at : at + 4] not in (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR"):
            break
        code = int.from_bytes(resources[at + 4 : at + 6], "big")
        name = 1 + resources[at + 6]
        start = at + 6 + name + name % 2
        size = int.from_bytes(resources[start : start + 4], "big")
        end = start + 4 + size + size % 2
        if start + 4 + size > len(resources):
            break
        data = resources[start + 4 : start + 4 + size]
        if code == PHOTOSHOP_IPTC and holds_picture(data):
            data = clean_iptc(data).data
            renditions = True
            kept.append(resources[at:start] + len(data).to_bytes(4, "big") + data + bytes(len(data) % 2))
        elif code in PHOTOSHOP_PICTURES or holds_picture(data):
            renditions = True
        else:
            kept.append(resources[at:end])
        at = end
    rest = resources[at:]
    return CleanBlock(b"".join(kept), renditions or holds_picture(rest), damaged=bool(rest.strip(b"\x00")))

"""The marker segments of a JPEG file: read, chosen, and put in front of newly coded pixels.

T.81: a JPEG is SOI, marker segments, entropy-coded scans between them, EOI. Metadata lies in APP0-APP15 and COM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rid.models.photo_files.jpeg.extended_xmp import XMP, XMP_EXTENSION, clean_jpeg_xmp
from rid.models.photo_files.metadata import (
    PHOTOSHOP,
    CleanBlock,
    clean_exif,
    clean_photoshop,
    clean_profile,
    clean_text,
    exif_with_orientation,
    holds_picture,
)
from rid.models.photo_files.photos import PhotoRefused

SOI, EOI, SOS, DQT, DRI, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
APP0, APP1, APP2, APP12, APP13, APP14, APP15 = 0xE0, 0xE1, 0xE2, 0xEC, 0xED, 0xEE, 0xEF
FRAMES = {0xC0 + n for n in range(16)} - {0xC4, 0xC8, 0xCC}  # SOF0-15 without DHT, JPG and DAC
BARE = {0x01, SOI, EOI, *range(0xD0, 0xD8)}  # markers without a length

EXIF, ICC = b"Exif\x00", b"ICC_PROFILE\x00"
ICC_HEAD = len(ICC) + 2  # the number of the part, and of how many
MAX_MARKERS = 50_000  # before the picture; 256 MB of the smallest ones would take gigabytes to list
PAYLOAD = 65_533  # a segment's length field counts itself

_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """One marker segment without its marker and length."""

    marker: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """Returns marker, length and payload."""
        return bytes((0xFF, self.marker)) + (len(self.payload) + 2).to_bytes(2, "big") + self.payload


@dataclass(frozen=True)
class Segments:
    """The marker segments of one file.

    Attributes:
        header: the segments before the first scan, in order.
        scan: where the first scan's SOS marker lies; -1 if the header does not reach one.
        end: where the first picture ends, after its EOI; -1 if the file stops before that.
    """

    header: tuple[Segment, ...]
    scan: int
    end: int = -1


def read_header_segments(data: bytes) -> Segments:
    """Reads the segments up to the first scan; `scan` is -1 if the file stops or is no JPEG before it.

    Raises:
        PhotoRefused: `decode_error` if there are more of them than any camera writes.
    """
    segments: list[Segment] = []
    at = 2
    for _ in range(MAX_MARKERS):
        at = _next_marker(data, at)
        if at < 0:
            return Segments(tuple(segments), -1)
        marker = data[at + 1]
        if marker == SOS:
            return Segments(tuple(segments), at)
        if marker == EOI:
            return Segments(tuple(segments), -1)
        if marker in BARE:
            at += 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 2 or at + 2 + size > len(data):
            return Segments(tuple(segments), -1)
        segments.append(Segment(marker, data[at + 4 : at + 2 + size]))
        at += 2 + size
    raise PhotoRefused("decode_error", f"the JPEG has more than {MAX_MARKERS} segments before its picture")


def find_end(data: bytes, scan: int) -> int:
    """Returns where the picture whose first scan begins at `scan` ends, after its EOI; -1 if it does not."""
    at = scan
    while 0 <= at < len(data) - 1:
        if data[at + 1] == EOI:
            return at + 2
        if data[at + 1] not in BARE:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            at += 2
        found = _SCAN_END.search(data, at)
        if not found:
            return -1
        at = found.start()
    return -1


def _next_marker(data: bytes, at: int) -> int:
    """Returns where the next marker's 0xFF lies, at or after `at`; fill bytes and stray bytes are passed over."""
    found = re.compile(rb"\xff[^\x00\xff]", re.DOTALL).search(data, at)
    return found.start() if found else -1


# ------------------------------------------------------------------------------------------------------ metadata


@dataclass(frozen=True)
class Metadata:
    """The metadata that goes with the protected picture.

    Attributes:
        segments: all of it but the XMP packet.
        xmp: the XMP packet; empty if there is none.
        xmp_extension: what of the XMP is in `segments`, joined.
        flags: what had to be left out.
    """

    segments: tuple[Segment, ...]
    xmp: bytes
    xmp_extension: bytes
    flags: tuple[str, ...]


def exif_of(segments: tuple[Segment, ...]) -> bytes | None:
    """Returns the EXIF block, beginning with its TIFF header, or None."""
    for segment in segments:
        if segment.marker == APP1 and segment.payload.startswith(EXIF):
            return segment.payload[6:]
    return None


def keep_metadata(segments: tuple[Segment, ...], orientation: int) -> Metadata:
    """Chooses the metadata to keep: density, EXIF, XMP, ICC, IPTC, comments, without embedded pictures.

    Everything else (multi-picture tables, FlashPix, maker previews, content credentials of the original) is left
    out and flagged: such blocks hold renditions, or are statements about bytes that no longer exist.
    """
    kept: list[Segment] = []
    xmp = clean_jpeg_xmp(s.payload for s in segments if s.marker == APP1)
    flags = [*xmp.flags]
    photoshop = clean_photoshop(b"".join(s.payload[len(PHOTOSHOP) :] for s in segments if _is(s, APP13, PHOTOSHOP)))
    profile = clean_profile(b"".join(s.payload[ICC_HEAD:] for s in segments if _is(s, APP2, ICC)))
    written: set[bytes] = set()  # blocks that lie in several segments and are written where the first one is
    for segment in segments:
        marker, payload = segment.marker, segment.payload
        if not (marker == COM or APP0 <= marker <= APP15):
            continue
        if marker == APP0 and payload.startswith(b"JFIF\x00") and len(payload) >= 14:
            block = CleanBlock(payload[:12] + b"\x00\x00", renditions=len(payload) > 14)
        elif _is(segment, APP1, EXIF):
            block = CleanBlock(b"", damaged=True) if EXIF in written else clean_exif(payload[6:])
            exif = block.data or (b"" if EXIF in written else exif_with_orientation(orientation))
            block = replace(block, data=b"Exif\x00\x00" + exif if exif else b"")
            written.add(EXIF)
        elif _is(segment, APP1, XMP):
            continue
        elif _is(segment, APP1, XMP_EXTENSION):
            kept += [] if XMP_EXTENSION in written else [Segment(APP1, part) for part in xmp.parts]
            written.add(XMP_EXTENSION)
            continue
        elif _is(segment, APP2, ICC):
            block = replace(profile, data=payload if profile.data else b"")
        elif _is(segment, APP13, PHOTOSHOP):
            if PHOTOSHOP not in written:
                parts = _parts(photoshop.data, PAYLOAD - len(PHOTOSHOP))
                kept += [Segment(APP13, PHOTOSHOP + part) for part in parts]
                flags += photoshop.flags
            written.add(PHOTOSHOP)
            continue
        elif marker == COM or (marker == APP12 and payload.startswith(b"Ducky")):
            block = clean_text(payload)
        elif marker == APP14 and payload.startswith(b"Adobe"):
            continue  # it says how the pixels are coded: the encoder's own one is right
        else:
            renditions = payload.startswith((b"MPF\x00", b"FPXR", b"JFXX")) or holds_picture(payload)
            flags.append("renditions_removed" if renditions else "metadata_dropped")
            continue
        flags += block.flags
        if block.data:
            kept.append(Segment(marker, block.data))
    return Metadata(tuple(kept), xmp.packet, xmp.extension, tuple(dict.fromkeys(flags)))


def with_xmp(segments: tuple[Segment, ...], packet: bytes) -> tuple[Segment, ...]:
    """Returns metadata segments with an XMP packet in its customary place, after JFIF and EXIF."""
    if not packet:
        return segments
    leading = [i for i, s in enumerate(segments) if _is(s, APP0, b"JFIF\x00") or _is(s, APP1, EXIF)]
    at = leading[-1] + 1 if leading else 0
    return (*segments[:at], Segment(APP1, XMP + packet), *segments[at:])


def with_metadata(coded: bytes, metadata: tuple[Segment, ...]) -> bytes:
    """Returns a newly coded JPEG with its own APPn and COM segments replaced by `metadata`; Adobe's APP14 stays."""
    own = read_header_segments(coded)
    coding = [s for s in own.header if not (s.marker == COM or APP0 <= s.marker <= APP15) or s.marker == APP14]
    header = b"".join(s.to_bytes() for s in (*metadata, *coding))
    return b"\xff\xd8" + header + coded[own.scan :]


def _is(segment: Segment, marker: int, identifier: bytes) -> bool:
    return segment.marker == marker and segment.payload.startswith(identifier)


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]

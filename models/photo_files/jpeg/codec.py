"""JPEG: decoded by libjpeg-turbo, written back with the original's tables, chroma, scan order and metadata."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from rid.models.photo_files.jpeg.extended_xmp import MAX_PACKET, XMP
from rid.models.photo_files.jpeg.segments import (
    APP0,
    APP1,
    APP14,
    DQT,
    FRAMES,
    Segment,
    Segments,
    exif_of,
    find_end,
    keep_metadata,
    read_header_segments,
    with_metadata,
    with_xmp,
)
from rid.models.photo_files.metadata import exif_orientation
from rid.models.photo_files.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger
from rid.models.photo_files.pillow_files import opened

BASELINE, EXTENDED, PROGRESSIVE, ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA
FINE_CHROMA = 0  # Pillow's code for 4:4:4
SUBSAMPLING: dict[tuple[tuple[int, int], ...], int] = {
    ((2, 1), (1, 1), (1, 1)): 1,  # 4:2:2
    ((2, 2), (1, 1), (1, 1)): 2,  # 4:2:0
}
COARSE_STEP = 8  # a mean quantisation step above which a picture stays under two bytes a pixel
QUALITY_STEPS = (0.7, 0.5, 0.35, 0.25, 0.125, 0.06, 0.0)  # the quantisation tables' values times these; 0 gives ones

# The order in which a DQT segment lists the 64 coefficients, row by row as (row * 8 + column).
ZIGZAG = sorted(range(64), key=lambda n: (n // 8 + n % 8, n // 8 if (n // 8 + n % 8) % 2 else n % 8))

_BUFFER_LOCK = threading.Lock()

Table = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """The start-of-frame segment: size, precision, and a (identifier, (h, v), table) triple a component."""

    marker: int
    precision: int
    width: int
    height: int
    components: tuple[tuple[int, tuple[int, int], int], ...]


@dataclass(frozen=True)
class JpegEncoding:
    """The coding of a JPEG.

    Attributes:
        tables: quantisation tables of the components in natural order; the last serves the remaining components.
        subsampling: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0.
        progressive: whether the scans are progressive.
        rgb: whether the components are stored as RGB instead of YCbCr.
        metadata: the segments that go in front, without the XMP packet.
    """

    tables: tuple[Table, ...]
    subsampling: int
    progressive: bool
    rgb: bool
    metadata: tuple[Segment, ...]

    @property
    def lossless(self) -> bool:
        """False: a JPEG is rounded."""
        return False

    @property
    def max_xmp(self) -> int:
        """Returns the contents of one segment."""
        return MAX_PACKET

    def code(self, pixels: Pixels) -> bytes:
        """Returns the JPEG of (H, W) grey or (H, W, 3) RGB pixels, without metadata."""
        picture = Image.fromarray(pixels)
        # Pillow's encoder has a buffer of two bytes a pixel for progressive files, which fine tables can exceed.
        fine = self.progressive and min(sum(table) for table in self.tables) < 64 * COARSE_STEP
        with _large_buffer(2 * pixels.size) if fine else contextlib.nullcontext():
            return self._code(picture)

    def finish(self, coded: bytes, xmp: bytes) -> bytes:
        """Returns a coded picture with the original's metadata and an XMP packet."""
        return with_metadata(coded, with_xmp(self.metadata, xmp))

    def _code(self, picture: Image.Image) -> bytes:
        out = io.BytesIO()
        picture.save(
            out,
            "JPEG",
            qtables=[list(table) for table in self.tables],
            subsampling=self.subsampling if picture.mode == "RGB" else -1,
            progressive=self.progressive,
            keep_rgb=self.rgb,
        )
        return out.getvalue()

    def stronger(self) -> Iterator[Stronger]:
        """Yields 4:4:4 chroma, then finer and finer quantisation."""
        flags: tuple[str, ...] = ()
        if self.subsampling > FINE_CHROMA:
            flags = ("chroma_raised",)
            yield Stronger(replace(self, subsampling=FINE_CHROMA), flags)
        tables = self.tables
        for step in QUALITY_STEPS:
            finer = tuple(tuple(max(1, round(value * step)) for value in table) for table in self.tables)
            if finer != tables:
                tables = finer
                chroma = min(self.subsampling, FINE_CHROMA)
                yield Stronger(replace(self, tables=tables, subsampling=chroma), (*flags, "quality_raised"))


@contextlib.contextmanager
def _large_buffer(size: int) -> Iterator[None]:
    """Gives Pillow's encoder a buffer of at least `size` bytes; its only setting for that is the module's."""
    with _BUFFER_LOCK:
        before = ImageFile.MAXBLOCK
        ImageFile.MAXBLOCK = max(before, size)
        try:
            yield
        finally:
            ImageFile.MAXBLOCK = before


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a JPEG."""
    segments = read_header_segments(data)
    frame = _frame(segments)
    if frame is None or segments.scan < 0:
        raise PhotoRefused("truncated", "the JPEG stops before its picture begins")
    if frame.precision != 8:
        raise PhotoRefused("unsupported_bit_depth", f"the JPEG has {frame.precision} bits a sample; 8 are supported")
    if frame.marker not in (BASELINE, EXTENDED, PROGRESSIVE, ARITHMETIC, ARITHMETIC_PROGRESSIVE):
        raise PhotoRefused("unsupported_mode", "lossless and hierarchical JPEGs are not supported")
    mode = {1: "L", 3: "RGB"}.get(len(frame.components))
    if mode is None:
        raise PhotoRefused("unsupported_mode", f"the JPEG has {len(frame.components)} components (CMYK?), not 1 or 3")
    if frame.width == 0 or frame.height == 0:
        raise PhotoRefused("decode_error", "the JPEG does not say how large it is")
    exif = exif_of(segments.header)
    return PhotoHeader("JPEG", frame.width, frame.height, mode, exif_orientation(exif) if exif else 1)


def decode(data: bytes, header: PhotoHeader) -> Photo:
    """Decodes a JPEG whose header was accepted.

    Raises:
        PhotoRefused: `truncated` if the file stops before its end, `decode_error` if the data cannot be decoded.
    """
    segments = read_header_segments(data)
    frame = _frame(segments)
    assert frame is not None, "read_header accepted this file"
    end = find_end(data, segments.scan)
    if end < 0:
        raise PhotoRefused("truncated", "the JPEG stops before the end of its picture")
    pixels, warned = decode_pixels(data[:end] if end < len(data) else data, header.mode)
    if pixels.shape[:2] != (header.height, header.width):
        raise PhotoRefused("decode_error", "the JPEG's picture has another size than its header says")
    metadata = keep_metadata(segments.header, header.orientation)
    factors = tuple(sampling for _, sampling, _ in frame.components)
    coarse = FINE_CHROMA if len(set(factors)) == 1 else SUBSAMPLING.get(factors)
    flags = [*header.flags, *metadata.flags]
    flags += ["decoder_warning"] * warned + ["trailing_bytes_removed"] * (end < len(data))
    rgb = header.mode == "RGB" and _stored_as_rgb(segments, frame)
    coarse = None if rgb and coarse != FINE_CHROMA else coarse  # libjpeg subsamples YCbCr only
    flags += ["chroma_raised"] * (coarse is None) + ["coding_changed"] * (frame.marker >= ARITHMETIC)
    encoding = JpegEncoding(
        _component_tables(segments, frame),
        FINE_CHROMA if coarse is None else coarse,
        frame.marker in (PROGRESSIVE, ARITHMETIC_PROGRESSIVE),
        rgb,
        metadata.segments,
    )
    return Photo(pixels, header, encoding, tuple(dict.fromkeys(flags)), metadata.xmp, metadata.xmp_extension)


def read_xmp(data: bytes) -> bytes:
    """Returns the XMP packet of a file; empty if there is none."""
    header = read_header_segments(data).header
    return next((s.payload[len(XMP) :] for s in header if s.marker == APP1 and s.payload.startswith(XMP)), b"")


def decode_pixels(data: bytes, mode: str) -> tuple[Pixels, bool]:
    """Returns (H, W) or (H, W, 3) uint8 pixels, and whether the decoder complained."""
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if mode == "L" else "RGB", strict=True)
        return (pixels[:, :, 0] if mode == "L" else pixels), False
    except ValueError:
        pass  # a warning or an error: Pillow delivers a picture in the first case and says what is wrong in the other
    with opened(data, "JPEG") as picture:
        if picture.mode != mode:
            raise PhotoRefused("unsupported_mode", f"the JPEG decodes to mode {picture.mode}, not {mode}")
        return np.array(picture), True


def _frame(segments: Segments) -> Frame | None:
    for segment in segments.header:
        payload = segment.payload
        if segment.marker not in FRAMES or len(payload) < 6 or len(payload) < 6 + 3 * payload[5]:
            continue
        components = tuple(
            (payload[at], (payload[at + 1] >> 4, payload[at + 1] & 15), payload[at + 2])
            for at in range(6, 6 + 3 * payload[5], 3)
        )
        height, width = int.from_bytes(payload[1:3], "big"), int.from_bytes(payload[3:5], "big")
        return Frame(segment.marker, payload[0], width, height, components)
    return None


def _component_tables(segments: Segments, frame: Frame) -> tuple[Table, ...]:
    """Returns one table a component, in natural order, without repeating the last one."""
    by_slot: dict[int, Table] = {}
    for segment in segments.header:
        at = 0
        while segment.marker == DQT and at < len(segment.payload):
            wide, slot = segment.payload[at] >> 4, segment.payload[at] & 15
            size = 2 if wide else 1
            values = np.frombuffer(segment.payload[at + 1 : at + 1 + 64 * size], ">u2" if wide else "u1")
            if len(values) < 64:
                break
            natural = np.empty(64, int)
            natural[ZIGZAG] = values
            by_slot[slot] = tuple(int(value) for value in natural)
            at += 1 + 64 * size
    tables = [by_slot.get(slot) for _, _, slot in frame.components]
    present = [table for table in tables if table is not None]
    if len(present) < len(tables):
        raise PhotoRefused("decode_error", "the JPEG lacks a quantisation table")
    while len(present) > 1 and present[-1] == present[-2]:
        present.pop()
    return tuple(present)


def _stored_as_rgb(segments: Segments, frame: Frame) -> bool:
    """As libjpeg decides it: JFIF means YCbCr, Adobe's marker says, else the component identifiers tell."""
    if any(s.marker == APP0 and s.payload.startswith(b"JFIF\x00") for s in segments.header):
        return False
    for segment in segments.header:
        if segment.marker == APP14 and segment.payload.startswith(b"Adobe") and len(segment.payload) >= 12:
            return segment.payload[11] == 0
    return [identifier for identifier, _, _ in frame.components] == [ord("R"), ord("G"), ord("B")]

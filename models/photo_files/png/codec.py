"""PNG: written by zlib's run-length strategy over differences of rows, which photos lose little by and gain speed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rid.models.photo_files.metadata import exif_orientation
from rid.models.photo_files.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger
from rid.models.photo_files.pillow_files import opened
from rid.models.photo_files.png.chunks import (
    ANIMATION,
    CRITICAL,
    SIGNATURE,
    Chunk,
    Chunks,
    keep_chunks,
    read_chunks,
    xmp_chunk,
    xmp_of,
)

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
MODES = {GREY: "L", COLOUR: "RGB", PALETTE: "P", GREY_ALPHA: "LA", COLOUR_ALPHA: "RGBA"}
COLOUR_TYPES = {1: GREY, 2: GREY_ALPHA, 3: COLOUR, 4: COLOUR_ALPHA}  # by channels
HEADER_END = len(SIGNATURE) + 25
UP = 2  # PNG's filter type "up"


@dataclass(frozen=True)
class PngEncoding:
    """The chunks that go in front of a PNG's pixels, without the XMP packet."""

    chunks: tuple[Chunk, ...]

    @property
    def lossless(self) -> bool:
        """True: a PNG keeps every value."""
        return True

    @property
    def max_xmp(self) -> int:
        """Returns the contents of a chunk."""
        return 2**31 - 64

    def code(self, pixels: Pixels) -> bytes:
        """Returns the PNG of (H, W) or (H, W, 1 to 4) uint8 pixels, without metadata."""
        height, width = pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, COLOUR_TYPES[channels], 0, 0, 0))
        coder = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
        packed = coder.compress(filter_rows(pixels).data) + coder.flush()
        chunks = (Chunk(b"IHDR", header), Chunk(b"IDAT", packed), Chunk(b"IEND", b""))
        return SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks)

    def finish(self, coded: bytes, xmp: bytes) -> bytes:
        """Returns a coded picture with the original's metadata and an XMP packet."""
        chunks = (*self.chunks, xmp_chunk(xmp)) if xmp else self.chunks
        return coded[:HEADER_END] + b"".join(chunk.to_bytes() for chunk in chunks) + coded[HEADER_END:]

    def stronger(self) -> Iterator[Stronger]:
        """Yields nothing: nothing is lost."""
        return iter(())


def filter_rows(pixels: Pixels) -> Pixels:
    """Returns (H, 1 + W * channels): each row's difference to the one above, after the filter's number."""
    height = pixels.shape[0]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a PNG."""
    chunks = read_chunks(data, only_header=True)
    header = chunks.first(b"IHDR")
    if header is None or len(header) != 13:
        short = len(data) < HEADER_END
        raise PhotoRefused("truncated" if short else "decode_error", "the PNG has no whole header")
    if any(chunk.kind in ANIMATION for chunk in chunks.chunks):
        raise PhotoRefused("animated", "the PNG is animated; only single pictures are supported")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour_type = header[8], header[9]
    if colour_type not in MODES or width == 0 or height == 0:
        raise PhotoRefused("decode_error", "the PNG's header is not valid")
    keyed_grey = depth < 8 and colour_type == GREY and chunks.first(b"tRNS") is not None
    if depth == 16 or (depth == 1 and colour_type == GREY) or keyed_grey:
        raise PhotoRefused("unsupported_bit_depth", f"the PNG has {depth} bits a sample; 8 are supported")
    exif = next((chunk.data for chunk in chunks.chunks if chunk.kind == b"eXIf" and chunk.sound), b"")
    return PhotoHeader("PNG", width, height, MODES[colour_type], exif_orientation(exif) if exif else 1)


def decode(data: bytes, header: PhotoHeader) -> Photo:
    """Decodes a PNG whose header was accepted; palettes and transparent colours become true colour and alpha.

    Raises:
        PhotoRefused: `truncated` if the file stops before its end, `decode_error` if the data cannot be decoded.
    """
    chunks = read_chunks(data)
    if chunks.end < 0:
        raise PhotoRefused("truncated", "the PNG stops before its end")
    if not all(chunk.sound for chunk in chunks.chunks if chunk.kind in (*CRITICAL, b"tRNS")):
        raise PhotoRefused("decode_error", "a chunk of the PNG's picture has a wrong checksum")
    start = chunks.first(b"IHDR")
    assert start is not None, "read_header accepted this file"
    keyed = chunks.first(b"tRNS") is not None and header.mode in ("L", "RGB", "P")
    pixels = _decode_pixels(chunks, header.mode, keyed)
    flags = [*header.flags, *["palette_converted"] * (header.mode == "P")]
    flags += ["grey_depth_converted"] * (header.mode == "L" and start[8] < 8) + ["coding_changed"] * bool(start[12])
    flags += ["transparency_converted"] * keyed + ["trailing_bytes_removed"] * (chunks.end < len(data))
    converted = keyed or header.mode == "P" or start[8] < 8
    kept = keep_chunks(chunks.chunks, converted=converted, orientation=header.orientation)
    return Photo(pixels, header, PngEncoding(kept.chunks), tuple(dict.fromkeys((*flags, *kept.flags))), kept.xmp)


def read_xmp(data: bytes) -> bytes:
    """Returns the XMP packet of a file; empty if there is none."""
    chunks = read_chunks(data, only_header=True).chunks
    return next((packet for chunk in chunks if (packet := xmp_of(chunk)) is not None), b"")


def _decode_pixels(chunks: Chunks, mode: str, keyed: bool) -> Pixels:
    """Decodes the critical chunks alone, so that no fault of a text or profile can lose the picture."""
    needed = (*CRITICAL, b"tRNS") if keyed else CRITICAL
    lean = SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks.chunks if chunk.kind in needed)
    target = {"L": "LA", "LA": "LA"}.get(mode, "RGBA") if keyed else {"P": "RGB"}.get(mode, mode)
    with opened(lean, "PNG") as picture:
        converted = picture if picture.mode == target else picture.convert(target)
        return np.array(converted)

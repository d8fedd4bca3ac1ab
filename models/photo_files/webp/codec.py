"""WebP: lossless files stay lossless; a lossy one does not say its quality, which is estimated and flagged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from rid.models.photo_files.metadata import (
    clean_exif,
    clean_profile,
    clean_xmp,
    exif_orientation,
    exif_with_orientation,
    holds_picture,
)
from rid.models.photo_files.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger
from rid.models.photo_files.pillow_files import opened
from rid.models.photo_files.webp.chunks import end_of, read_chunks, with_metadata
from rid.models.photo_files.webp.vp8 import estimate_quality

FALLBACK_QUALITY = 90  # where the frame header cannot be read
QUALITY_STEP = 10
LOSSLESS_EFFORT = {"quality": 20, "method": 1}  # a third of the default's time for 6 % more bytes
METADATA_CHUNKS = (b"ICCP", b"EXIF", b"XMP ")
KNOWN_CHUNKS = (*METADATA_CHUNKS, b"VP8X", b"VP8 ", b"VP8L", b"ALPH")


@dataclass(frozen=True)
class WebpEncoding:
    """The coding of a WebP.

    Attributes:
        lossless: whether every value is kept, those under transparent pixels too.
        exif: EXIF block, may be empty.
        icc: colour profile, may be empty.
        quality: of the lossy coder, 1 to 100.
    """

    lossless: bool
    exif: bytes
    icc: bytes
    quality: int = FALLBACK_QUALITY

    @property
    def max_xmp(self) -> int:
        """Returns the contents of a chunk, without pictures."""
        return 2**31

    def code(self, pixels: Pixels) -> bytes:
        """Returns the WebP of (H, W, 3) RGB or (H, W, 4) RGBA pixels, without metadata."""
        out = io.BytesIO()
        effort = LOSSLESS_EFFORT if self.lossless else {"quality": self.quality, "method": 4}
        Image.fromarray(pixels).save(out, "WEBP", lossless=self.lossless, exact=True, **effort)
        return out.getvalue()

    def finish(self, coded: bytes, xmp: bytes) -> bytes:
        """Returns a coded picture with the original's metadata and an XMP packet."""
        return with_metadata(coded, self.icc, self.exif, xmp)

    def stronger(self) -> Iterator[Stronger]:
        """Yields higher qualities of a lossy file."""
        while not self.lossless and self.quality < 100:
            self = replace(self, quality=min(100, self.quality + QUALITY_STEP))
            yield Stronger(self, ("quality_raised",))


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a WebP."""
    chunks = read_chunks(data)
    if b"ANIM" in chunks or b"ANMF" in chunks:
        raise PhotoRefused("animated", "the WebP is animated; only single pictures are supported")
    with opened(data, "WEBP", truncated=end_of(data) > len(data)) as picture:
        exif = chunks.get(b"EXIF", b"").removeprefix(b"Exif\x00\x00")
        orientation = exif_orientation(exif) if exif else 1
        return PhotoHeader("WEBP", picture.width, picture.height, picture.mode, orientation)


def decode(data: bytes, header: PhotoHeader) -> Photo:
    """Decodes a WebP whose header was accepted.

    Raises:
        PhotoRefused: `truncated` if the file stops before its end, `decode_error` if the data cannot be decoded.
    """
    end = end_of(data)
    if len(data) < end:
        raise PhotoRefused("truncated", "the WebP stops before its end")
    with opened(data, "WEBP") as picture:
        pixels = np.array(picture)
    chunks = read_chunks(data)
    flags = [*header.flags, *["trailing_bytes_removed"] * (len(data) > end)]
    for kind in sorted(chunks.keys() - KNOWN_CHUNKS):
        flags.append("renditions_removed" if holds_picture(chunks[kind]) else "metadata_dropped")
    exif = xmp = b""
    if b"EXIF" in chunks:
        block = clean_exif(chunks[b"EXIF"].removeprefix(b"Exif\x00\x00"))
        exif = block.data or exif_with_orientation(header.orientation)
        flags += block.flags
    if b"XMP " in chunks:
        block = clean_xmp(chunks[b"XMP "])
        xmp = block.data
        flags += block.flags
    icc = clean_profile(chunks.get(b"ICCP", b""))
    flags += icc.flags
    lossless = b"VP8L" in chunks
    flags += ["quality_estimated"] * (not lossless)
    quality = None if lossless else estimate_quality(chunks.get(b"VP8 ", b""))
    encoding = WebpEncoding(lossless, exif, icc.data, quality or FALLBACK_QUALITY)
    return Photo(pixels, header, encoding, tuple(dict.fromkeys(flags)), xmp)


def read_xmp(data: bytes) -> bytes:
    """Returns the XMP packet of a file; empty if there is none."""
    return read_chunks(data).get(b"XMP ", b"")

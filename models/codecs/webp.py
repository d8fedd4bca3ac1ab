"""WebP: lossless files stay lossless; a lossy one says nothing of its quality, so that is estimated and flagged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from models.metadata import clean_exif, clean_xmp, exif_orientation, exif_with_orientation
from models.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger

QUALITY = 90
STRONGER_QUALITIES = (95, 100)


@dataclass(frozen=True)
class WebpEncoding:
    """How a WebP is written.

    Attributes:
        lossless: whether every value is kept, those under transparent pixels too.
        exif: EXIF block, may be empty.
        icc: colour profile, may be empty.
        xmp: XMP packet, may be empty.
        quality: of the lossy coder, 0 to 100.
    """

    lossless: bool
    exif: bytes
    icc: bytes
    xmp: bytes
    quality: int = QUALITY

    def write(self, pixels: Pixels) -> bytes:
        """Returns the WebP of (H, W, 3) RGB or (H, W, 4) RGBA pixels."""
        out = io.BytesIO()
        Image.fromarray(pixels).save(
            out,
            "WEBP",
            lossless=self.lossless,
            exact=True,
            quality=50 if self.lossless else self.quality,  # of a lossless file it is the effort
            method=2,
            exif=self.exif,
            icc_profile=self.icc,
            xmp=self.xmp,
        )
        return out.getvalue()

    def stronger(self) -> Iterator[Stronger]:
        """Yields higher qualities of a lossy file."""
        if not self.lossless:
            for quality in STRONGER_QUALITIES:
                yield Stronger(replace(self, quality=quality), ("quality_raised",))


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a WebP."""
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise PhotoRefused("animated", "the WebP is animated; only single pictures are supported")
            exif = picture.info.get("exif", b"").removeprefix(b"Exif\x00\x00")
            orientation = exif_orientation(exif) if exif else 1
            return PhotoHeader("WEBP", picture.width, picture.height, picture.mode, orientation)
    except (OSError, ValueError, SyntaxError) as error:
        stated = 8 + int.from_bytes(data[4:8], "little")
        raise PhotoRefused("truncated" if len(data) < stated else "decode_error", f"the WebP: {error}") from error


def decode(data: bytes, header: PhotoHeader) -> Photo:
    """Decodes a WebP whose header was accepted.

    Raises:
        PhotoRefused: `truncated` if the file stops before its end, `decode_error` if the data cannot be decoded.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise PhotoRefused("truncated", "the WebP stops before its end")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            picture.load()
            pixels, info = np.array(picture), dict(picture.info)
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise PhotoRefused("decode_error", f"the WebP cannot be decoded: {error}") from error
    flags = [*header.flags, *["trailing_bytes_removed"] * (len(data) > end + end % 2)]
    exif, xmp = b"", b""
    if info.get("exif"):
        block = clean_exif(info["exif"].removeprefix(b"Exif\x00\x00"))
        exif = block.data or exif_with_orientation(header.orientation)
        flags += block.flags
    if info.get("xmp"):
        block = clean_xmp(info["xmp"])
        xmp = block.data
        flags += block.flags
    lossless = _is_lossless(data)
    flags += ["quality_estimated"] * (not lossless)
    encoding = WebpEncoding(lossless, exif, info.get("icc_profile") or b"", xmp)
    return Photo(pixels, header, encoding, tuple(dict.fromkeys(flags)))


def _is_lossless(data: bytes) -> bool:
    """Whether the picture is in a VP8L chunk."""
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        at += 8 + size + size % 2
    return False

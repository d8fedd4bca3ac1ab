"""TIFF: single pictures of 8 bits a sample, written back with a lossless compression and the descriptive tags."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from models.metadata import clean_xmp
from models.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger

MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "P"}
LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
ORIENTATION, XMP, ICC = 274, 700, 34675
# Description, make, model, orientation, resolution and its unit, software, date, artist, host, copyright, IPTC.
KEPT_TAGS = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 33432, 33723)
DIRECTORY_TAGS = (330, 34665, 34853, 34377)  # sub-directories, EXIF, GPS, Photoshop


@dataclass(frozen=True)
class TiffEncoding:
    """How a TIFF is written: its compression, and its descriptive tags as (tag, value) pairs."""

    compression: str
    tags: tuple[tuple[int, object], ...]
    icc: bytes

    @property
    def lossless(self) -> bool:
        """True: only lossless compressions are written."""
        return True

    def write(self, pixels: Pixels) -> bytes:
        """Returns the TIFF of (H, W) or (H, W, 2 to 4) pixels."""
        out = io.BytesIO()
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in self.tags:
            directory[tag] = value
        options = {"icc_profile": self.icc} if self.icc else {}
        Image.fromarray(pixels).save(out, "TIFF", compression=self.compression, tiffinfo=directory, **options)
        return out.getvalue()

    def stronger(self) -> Iterator[Stronger]:
        """Yields nothing: nothing is lost."""
        return iter(())


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a TIFF."""
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise PhotoRefused("animated", "the TIFF has several pages; only single pictures are supported")
            if picture.mode == "1" or picture.mode.startswith(("I", "F")):
                raise PhotoRefused("unsupported_bit_depth", "the TIFF has not 8 bits a sample")
            if picture.mode not in MODES:
                raise PhotoRefused("unsupported_mode", f"TIFF of mode {picture.mode} is not supported")
            orientation = picture.tag_v2.get(ORIENTATION, 1)  # type: ignore[attr-defined]
            valid = isinstance(orientation, int) and 1 <= orientation <= 8
            return PhotoHeader("TIFF", picture.width, picture.height, picture.mode, orientation if valid else 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise PhotoRefused("decode_error", f"the TIFF cannot be read: {error}") from error


def decode(data: bytes, header: PhotoHeader) -> Photo:
    """Decodes a TIFF whose header was accepted.

    Raises:
        PhotoRefused: `truncated` if the file stops before its end, `decode_error` if the data cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as picture:
            tags = dict(picture.tag_v2)  # type: ignore[attr-defined]
            compression = str(picture.info.get("compression", "raw"))
            # Pillow turns TIFFs upright when it loads them; the stored pixels are wanted.
            picture.tag_v2.pop(ORIENTATION, None)  # type: ignore[attr-defined]
            picture.load()
            upright = (
                picture.convert("RGBA" if "transparency" in picture.info else "RGB") if header.mode == "P" else picture
            )
            pixels = np.array(upright)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, MemoryError) as error:
        truncated = "truncated" in str(error) or "not enough" in str(error)
        raise PhotoRefused(
            "truncated" if truncated else "decode_error", f"the TIFF cannot be decoded: {error}"
        ) from error
    if pixels.shape[:2] != (header.height, header.width):
        raise PhotoRefused("decode_error", "the TIFF's picture has another size than its header says")
    flags = [*header.flags, *["palette_converted"] * (header.mode == "P")]
    flags += ["coding_changed"] * (compression not in LOSSLESS)
    flags += ["metadata_dropped"] * any(tag in tags for tag in DIRECTORY_TAGS)
    kept = [(tag, tags[tag]) for tag in KEPT_TAGS if tag in tags]
    if isinstance(tags.get(XMP), bytes):
        block = clean_xmp(tags[XMP])
        flags += block.flags
        kept += [(XMP, block.data)] * bool(block.data)
    icc = tags.get(ICC)
    encoding = TiffEncoding(
        compression if compression in LOSSLESS else "tiff_adobe_deflate",
        tuple(kept),
        icc if isinstance(icc, bytes) else b"",
    )
    return Photo(pixels, header, encoding, tuple(dict.fromkeys(flags)))

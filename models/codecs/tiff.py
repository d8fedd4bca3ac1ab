"""TIFF: single pictures of 8 bits a sample, written back with a lossless compression and the descriptive tags."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from models.codecs.pillow_files import opened
from models.metadata import clean_photoshop, clean_xmp, holds_picture
from models.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger

MODES = ("L", "LA", "RGB", "RGBA", "P")
LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
PREDICTED = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")

BITS, STRIPS, STRIP_SIZES, ORIENTATION, PLANAR, PREDICTOR, TILES, TILE_SIZES = 258, 273, 279, 274, 284, 317, 324, 325
SUB_PICTURES, XMP, PHOTOSHOP, ICC, EXIF, GPS = 330, 700, 34377, 34675, 34665, 34853
# Description, make, model, orientation, resolution and its unit, software, date, artist, host, copyright, IPTC, ICC.
KEPT_TAGS = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 33432, 33723, ICC)
MAKER_NOTE = 37500  # points into the file by absolute offsets, and often holds a preview


@dataclass(frozen=True)
class TiffEncoding:
    """How a TIFF is written: its compression, its tags and the EXIF and GPS directories by tag."""

    compression: str
    tags: tuple[tuple[int, Any], ...]
    directories: tuple[tuple[int, tuple[tuple[int, Any], ...]], ...] = ()

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
        for tag, values in self.directories:
            directory[tag] = dict(values)
        Image.fromarray(pixels).save(out, "TIFF", compression=self.compression, tiffinfo=directory)
        return out.getvalue()

    def stronger(self) -> Iterator[Stronger]:
        """Yields nothing: nothing is lost."""
        return iter(())


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a TIFF."""
    with opened(data, "TIFF", truncated=_first_directory(data) + 2 > len(data)) as picture:
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        if getattr(picture, "n_frames", 1) > 1:
            raise PhotoRefused("animated", "the TIFF has several pages; only single pictures are supported")
        bits = tags.get(BITS, (1,))
        if picture.mode != "P" and set(bits) != {8}:
            raise PhotoRefused("unsupported_bit_depth", f"the TIFF has {bits[0]} bits a sample; 8 are supported")
        if picture.mode not in MODES:
            raise PhotoRefused("unsupported_mode", f"the TIFF is of mode {picture.mode}, which is not supported")
        orientation = tags.get(ORIENTATION, 1)
        known = isinstance(orientation, int) and 1 <= orientation <= 8
        # Pillow gives the upright size; the stored one is in the tags.
        return PhotoHeader("TIFF", int(tags[256]), int(tags[257]), picture.mode, orientation if known else 1)


def decode(data: bytes, header: PhotoHeader) -> Photo:
    """Decodes a TIFF whose header was accepted.

    Raises:
        PhotoRefused: `truncated` if the file stops before its end, `decode_error` if the data cannot be decoded.
    """
    with opened(data, "TIFF") as picture:
        exif = picture.getexif()
        tags: dict[int, Any] = dict(picture.tag_v2)  # type: ignore[attr-defined]
        if _last_byte(tags) > len(data):
            raise PhotoRefused("truncated", "the TIFF stops before its end")
        compression = str(picture.info.get("compression", "raw"))
        directories = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF, GPS) if tag in tags}
        picture.tag_v2.pop(ORIENTATION, None)  # type: ignore[attr-defined]  # else Pillow turns the pixels upright
        picture.load()
        keyed = "transparency" in picture.info
        true_colour = picture.convert("RGBA" if keyed else "RGB") if header.mode == "P" else picture
        pixels = np.array(true_colour)
    if pixels.shape[:2] != (header.height, header.width):
        raise PhotoRefused("decode_error", "the TIFF's picture has another size than its header says")
    flags = [*header.flags, *["palette_converted"] * (header.mode == "P")]
    changed = compression not in LOSSLESS or TILES in tags or tags.get(PLANAR, 1) != 1
    flags += ["coding_changed"] * changed + ["renditions_removed"] * (SUB_PICTURES in tags)
    kept, more = _keep_tags(tags)
    if compression in PREDICTED and tags.get(PREDICTOR) == 2:
        kept.append((PREDICTOR, 2))
    kept_directories, lost = _keep_directories(directories)
    flags += [*more, *["metadata_dropped"] * lost]
    encoding = TiffEncoding(
        compression if compression in LOSSLESS else "tiff_adobe_deflate", tuple(kept), tuple(kept_directories)
    )
    return Photo(pixels, header, encoding, tuple(dict.fromkeys(flags)))


def _first_directory(data: bytes) -> int:
    return int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big") if len(data) >= 8 else len(data)


def _last_byte(tags: dict[int, Any]) -> int:
    """Where the last strip or tile ends, as far as the tags say."""
    ends = [0]
    for places, sizes in ((STRIPS, STRIP_SIZES), (TILES, TILE_SIZES)):
        starts, lengths = (value if isinstance(value, tuple) else () for value in (tags.get(places), tags.get(sizes)))
        ends += [int(start) + int(length) for start, length in zip(starts, lengths, strict=False)]
    return max(ends)


def _keep_tags(tags: dict[int, Any]) -> tuple[list[tuple[int, Any]], tuple[str, ...]]:
    """Returns the descriptive tags without pictures, and flags."""
    kept = [(tag, tags[tag]) for tag in KEPT_TAGS if tag in tags]
    flags: tuple[str, ...] = ()
    for tag, clean in ((XMP, clean_xmp), (PHOTOSHOP, clean_photoshop)):
        if isinstance(tags.get(tag), bytes):
            block = clean(tags[tag])
            flags += block.flags
            kept += [(tag, block.data)] * bool(block.data)
    return kept, flags


def _keep_directories(
    directories: dict[int, dict[int, Any]],
) -> tuple[list[tuple[int, tuple[tuple[int, Any], ...]]], bool]:
    """Returns the EXIF and GPS directories without what cannot be moved or holds a picture, and whether any did."""
    kept, lost = [], False
    for tag, values in directories.items():
        plain = {
            key: value
            for key, value in values.items()
            if key != MAKER_NOTE
            and not isinstance(value, dict)
            and not (isinstance(value, bytes) and holds_picture(value))
        }
        lost |= len(plain) < len(values)
        if plain:
            kept.append((tag, tuple(sorted(plain.items()))))
    return kept, lost

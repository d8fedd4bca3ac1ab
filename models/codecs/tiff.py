"""TIFF: single pictures of 8 bits a sample, written back with a lossless compression and the descriptive tags."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.codecs.pillow_files import opened
from models.codecs.tiff_directory import Directory, Entry, first_directory, read_directory, with_entries, with_short
from models.metadata import clean_photoshop, clean_xmp, holds_picture
from models.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger

MODES = ("L", "LA", "RGB", "RGBA", "P")
LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
PREDICTED = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")

BITS, STRIPS, STRIP_SIZES, ORIENTATION, PLANAR, PREDICTOR, TILES, TILE_SIZES = 258, 273, 279, 274, 284, 317, 324, 325
SUB_PICTURES, XMP, PHOTOSHOP, EXIF, GPS = 330, 700, 34377, 34665, 34853
# Description, make, model, orientation, resolution and its unit, software, date, artist, host, copyright, IPTC, ICC.
KEPT_TAGS = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 33432, 33723, 34675)
# The MakerNote and the interoperability directory point into the file by offsets that no longer hold.
UNMOVABLE = (37500, 40965)


@dataclass(frozen=True)
class TiffEncoding:
    """How a TIFF is written.

    Attributes:
        compression: as Pillow names it.
        predictor: whether rows are coded as differences of neighbours.
        entries: descriptive tags.
        directories: EXIF and GPS entries, by the tag that points to them.
    """

    compression: str
    predictor: bool
    entries: tuple[Entry, ...]
    directories: tuple[tuple[int, tuple[Entry, ...]], ...]

    @property
    def lossless(self) -> bool:
        """True: only lossless compressions are written."""
        return True

    def write(self, pixels: Pixels) -> bytes:
        """Returns the TIFF of (H, W) or (H, W, 2 to 4) pixels."""
        out = io.BytesIO()
        tags = {PREDICTOR: 2} if self.predictor else {}
        Image.fromarray(pixels).save(out, "TIFF", compression=self.compression, tiffinfo=tags)
        return with_entries(out.getvalue(), self.entries, self.directories)

    def stronger(self) -> Iterator[Stronger]:
        """Yields nothing: nothing is lost."""
        return iter(())


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a TIFF."""
    with opened(data, "TIFF", truncated=first_directory(data) + 2 > len(data)) as picture:
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
    # Pillow turns TIFFs upright as it loads them, unless they say that they are.
    stored = data if header.orientation == 1 else with_short(data, ORIENTATION, 1)
    with opened(stored, "TIFF") as picture:
        tags: dict[int, Any] = dict(picture.tag_v2)  # type: ignore[attr-defined]
        if _last_byte(tags) > len(data):
            raise PhotoRefused("truncated", "the TIFF stops before its end")
        compression = str(picture.info.get("compression", "raw"))
        picture.load()
        keyed = "transparency" in picture.info
        true_colour = picture.convert("RGBA" if keyed else "RGB") if header.mode == "P" else picture
        pixels = np.array(true_colour)
    if pixels.shape[:2] != (header.height, header.width):
        raise PhotoRefused("decode_error", "the TIFF's picture has another size than its header says")
    flags = [*header.flags, *["palette_converted"] * (header.mode == "P")]
    changed = compression not in LOSSLESS or TILES in tags or tags.get(PLANAR, 1) != 1
    flags += ["coding_changed"] * changed + ["renditions_removed"] * (SUB_PICTURES in tags)
    directory = read_directory(data, first_directory(data))
    kept, more = _keep_entries(directory)
    inner, again = _keep_directories(data, directory)
    encoding = TiffEncoding(
        compression if compression in LOSSLESS else "tiff_adobe_deflate",
        compression in PREDICTED and tags.get(PREDICTOR) == 2,
        kept,
        inner,
    )
    return Photo(pixels, header, encoding, tuple(dict.fromkeys((*flags, *more, *again))))


def _last_byte(tags: dict[int, Any]) -> int:
    """Where the last strip or tile ends, as far as the tags say."""
    ends = [0]
    for places, sizes in ((STRIPS, STRIP_SIZES), (TILES, TILE_SIZES)):
        starts, lengths = (value if isinstance(value, tuple) else () for value in (tags.get(places), tags.get(sizes)))
        ends += [int(start) + int(length) for start, length in zip(starts, lengths, strict=False)]
    return max(ends)


def _keep_entries(directory: Directory) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Returns the descriptive entries without pictures, and flags."""
    kept = [entry for entry in directory.entries if entry.tag in KEPT_TAGS and not holds_picture(entry.value)]
    flags = ("metadata_damaged",) * directory.damaged
    for tag, clean in ((XMP, clean_xmp), (PHOTOSHOP, clean_photoshop)):
        entry = directory.get(tag)
        if entry is not None and len(entry.value) == entry.count:
            block = clean(entry.value)
            flags += block.flags
            kept += [Entry(tag, entry.kind, len(block.data), block.data)] * bool(block.data)
    return tuple(kept), flags


def _keep_directories(
    data: bytes, directory: Directory
) -> tuple[tuple[tuple[int, tuple[Entry, ...]], ...], tuple[str, ...]]:
    """Returns the EXIF and GPS directories without what cannot be moved or holds a picture, and flags."""
    kept: list[tuple[int, tuple[Entry, ...]]] = []
    flags: tuple[str, ...] = ()
    for tag in (EXIF, GPS):
        pointer = directory.get(tag)
        if pointer is None or len(pointer.value) != 4:
            continue
        inner = read_directory(data, int.from_bytes(pointer.value, "little"))
        plain = tuple(e for e in inner.entries if e.tag not in UNMOVABLE and not holds_picture(e.value))
        flags += ("metadata_damaged",) * inner.damaged + ("metadata_dropped",) * (len(plain) < len(inner.entries))
        kept += [(tag, plain)] * bool(plain)
    return tuple(kept), flags

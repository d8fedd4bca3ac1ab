"""TIFF: single pictures of 8 bits a sample, written back with a lossless compression and the descriptive tags."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rid.models.photo_files.metadata import (
    CleanBlock,
    clean_iptc,
    clean_photoshop,
    clean_profile,
    clean_xmp,
    holds_picture,
)
from rid.models.photo_files.photos import Photo, PhotoHeader, PhotoRefused, Pixels, Stronger
from rid.models.photo_files.pillow_files import opened
from rid.models.photo_files.tiff.directory import (
    BYTE,
    Directory,
    Entry,
    first_directory,
    later_directories,
    read_directory,
    with_entries,
    with_short,
)

MODES = ("L", "LA", "RGB", "RGBA", "P")
LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
PREDICTED = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")

BITS, STRIPS, STRIP_SIZES, ORIENTATION, PLANAR, PREDICTOR, TILES, TILE_SIZES = 258, 273, 279, 274, 284, 317, 324, 325
SUBFILE, EXTRA_SAMPLES, SUB_PICTURES, XMP, IPTC, PHOTOSHOP, EXIF, ICC, GPS = (
    254,
    338,
    330,
    700,
    33723,
    34377,
    34665,
    34675,
    34853,
)
UNASSOCIATED_ALPHA = 2
# Names of document and page, description, make, model, orientation, resolution and its unit, position, software, date,
# artist, host, transfer function, white point, primaries, rating, copyright, IPTC, ICC, Windows' title to subject.
KEPT_TAGS = (
    *(269, 270, 271, 272, ORIENTATION, 282, 283, 285, 286, 287, 296, 297, 301, 305, 306, 315, 316, 318, 319),
    *(18246, 18249, 33432, IPTC, ICC, 40091, 40092, 40093, 40094, 40095),
)
# How the pixels are coded, which the encoder says anew: 254-266, 273-284, 290-293, 317, 320-332, 338, 339, JPEG's.
CODING_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291),
    *(292, 293, 317, 320, 321, 322, 323, 324, 325, SUB_PICTURES, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518),
    *(519, 520, 521, 529, 530, 531, 532),
)
# The MakerNote and the interoperability directory point into the file by offsets that no longer hold.
UNMOVABLE = (37500, 40965)


@dataclass(frozen=True)
class TiffEncoding:
    """The coding of a TIFF.

    Attributes:
        compression: as Pillow names it.
        predictor: whether rows are coded as differences of neighbours.
        entries: descriptive tags, without the XMP packet.
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

    @property
    def max_xmp(self) -> int:
        """Returns the contents of a tag, without pictures."""
        return 2**31

    def code(self, pixels: Pixels) -> bytes:
        """Returns the TIFF of (H, W) or (H, W, 2 to 4) pixels, without metadata."""
        out = io.BytesIO()
        tags = {PREDICTOR: 2} if self.predictor else {}
        Image.fromarray(pixels).save(out, "TIFF", compression=self.compression, tiffinfo=tags)
        return out.getvalue()

    def finish(self, coded: bytes, xmp: bytes) -> bytes:
        """Returns a coded picture with the original's metadata and an XMP packet."""
        packet = (Entry(XMP, BYTE, len(xmp), xmp),) if xmp else ()
        return with_entries(coded, (*self.entries, *packet), self.directories)

    def stronger(self) -> Iterator[Stronger]:
        """Yields nothing: nothing is lost."""
        return iter(())


def read_header(data: bytes) -> PhotoHeader:
    """Reads size, mode and orientation from a file that begins as a TIFF."""
    with opened(data, "TIFF", truncated=first_directory(data) + 2 > len(data)) as picture:
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        if not all(map(_is_reduced, later_directories(data))):
            raise PhotoRefused("animated", "the TIFF has several pages; only single pictures are supported")
        bits = tags.get(BITS, (1,))
        if picture.mode != "P" and set(bits) != {8}:
            raise PhotoRefused("unsupported_bit_depth", f"the TIFF has {bits[0]} bits a sample; 8 are supported")
        extra = tags.get(EXTRA_SAMPLES, ())
        if any(kind != UNASSOCIATED_ALPHA for kind in extra) or len(extra) > 1:
            raise PhotoRefused(
                "unsupported_mode", "the TIFF has extra samples, or alpha that its colours are scaled by"
            )
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
        picture.info.pop("xmp", None)  # Pillow would also turn by what that says
        picture.load()
        keyed = "transparency" in picture.info
        true_colour = picture.convert("RGBA" if keyed else "RGB") if header.mode == "P" else picture
        pixels = np.array(true_colour)
    if pixels.shape[:2] != (header.height, header.width):
        raise PhotoRefused("decode_error", "the TIFF's picture has another size than its header says")
    flags = [*header.flags, *["palette_converted"] * (header.mode == "P")]
    changed = compression not in LOSSLESS or TILES in tags or tags.get(PLANAR, 1) != 1
    flags += ["coding_changed"] * changed
    flags += ["renditions_removed"] * (SUB_PICTURES in tags or any(True for _ in later_directories(data)))
    directory = read_directory(data, first_directory(data))
    kept, more = _keep_entries(directory)
    inner, again = _keep_directories(data, directory)
    encoding = TiffEncoding(
        compression if compression in LOSSLESS else "tiff_adobe_deflate",
        compression in PREDICTED and tags.get(PREDICTOR) == 2,
        kept,
        inner,
    )
    xmp = _clean_block(directory, XMP, clean_xmp)
    all_flags = (*flags, *more, *again, *xmp.flags)
    return Photo(pixels, header, encoding, tuple(dict.fromkeys(all_flags)), xmp.data)


def read_xmp(data: bytes) -> bytes:
    """Returns the XMP packet of a file; empty if there is none."""
    entry = read_directory(data, first_directory(data)).get(XMP)
    return entry.value if entry is not None and len(entry.value) == entry.count else b""


def _is_reduced(directory: Directory) -> bool:
    """Returns whether a directory says that it is a smaller version of another picture of the file."""
    kind = directory.get(SUBFILE)
    return kind is not None and bool(int.from_bytes(kind.value, "little") & 1)


def _last_byte(tags: dict[int, Any]) -> int:
    """Returns the end of the last strip or tile, as far as the tags say."""
    ends = [0]
    for offsets, sizes in ((STRIPS, STRIP_SIZES), (TILES, TILE_SIZES)):
        starts, lengths = (value if isinstance(value, tuple) else () for value in (tags.get(offsets), tags.get(sizes)))
        ends += [int(start) + int(length) for start, length in zip(starts, lengths, strict=False)]
    return max(ends)


def _keep_entries(directory: Directory) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Returns the descriptive entries without pictures, and flags."""
    kept: list[Entry] = []
    flags = ["metadata_damaged"] * directory.damaged
    for entry in directory.entries:
        if entry.tag in (*CODING_TAGS, XMP, PHOTOSHOP, EXIF, GPS):
            continue
        if entry.tag in (ICC, IPTC) and len(entry.value) == entry.count:
            block = clean_profile(entry.value) if entry.tag == ICC else clean_iptc(entry.value)
            kept += [Entry(entry.tag, entry.kind, len(block.data), block.data)] * bool(block.data)
            flags += block.flags
        elif holds_picture(entry.value):
            flags += ["renditions_removed", "metadata_dropped"]
        elif entry.tag in KEPT_TAGS:
            kept.append(entry)
        else:
            flags.append("metadata_dropped")
    photoshop = _clean_block(directory, PHOTOSHOP, clean_photoshop)
    kept += [Entry(PHOTOSHOP, BYTE, len(photoshop.data), photoshop.data)] * bool(photoshop.data)
    return tuple(kept), (*flags, *photoshop.flags)


def _clean_block(directory: Directory, tag: int, clean: Callable[[bytes], CleanBlock]) -> CleanBlock:
    """The bytes of an entry, cleaned; an entry of anything but bytes is damage."""
    entry = directory.get(tag)
    if entry is None:
        return CleanBlock(b"")
    return clean(entry.value) if len(entry.value) == entry.count else CleanBlock(b"", damaged=True)


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

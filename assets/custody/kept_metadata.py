"""Comparison of metadata: a published photo keeps its original's, without any picture of the unprotected original.

Written apart from the codecs that keep metadata, with another reader, so that it can find their mistakes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

LENIENT = {"metadata_damaged", "metadata_dropped"}  # flags that say that a block could not be kept
THUMBNAIL = (ExifTags.Base.JpegIFOffset, ExifTags.Base.StripOffsets)  # where IFD1 says that a picture lies
POINTERS = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}


@dataclass(frozen=True)
class Kept:
    """The outcome for one photo's metadata.

    Attributes:
        lost: kinds that the original has and the published photo lacks.
        leaks: whether the published photo holds a thumbnail.
    """

    lost: tuple[str, ...]
    leaks: bool


def compare_metadata(original: bytes, published: bytes, flags: tuple[str, ...] = ()) -> Kept:
    """Compares two versions of one photo.

    Args:
        original: the file as it came.
        published: the file as it was published.
        flags: of its receipt; a block that is flagged as dropped is not reported again.
    """
    with Image.open(io.BytesIO(original)) as before, Image.open(io.BytesIO(published)) as after:
        lost = () if LENIENT & set(flags) else tuple(_lost(before, after))
        return Kept(lost, _has_thumbnail(after))


def _lost(before: ImageFile.ImageFile, after: ImageFile.ImageFile) -> Iterator[str]:
    if before.info.get("icc_profile") and before.info["icc_profile"] != after.info.get("icc_profile"):
        yield "colour profile"
    if _exif_tags(before) - _exif_tags(after):
        yield "EXIF"
    if before.getexif().get(ExifTags.Base.Orientation, 1) != after.getexif().get(ExifTags.Base.Orientation, 1):
        yield "orientation"
    if before.info.get("xmp") and not after.info.get("xmp"):
        yield "XMP"
    if _resolution(before) != _resolution(after):
        yield "resolution"
    if _iptc(before) - _iptc(after):
        yield "IPTC"


def _exif_tags(photo: Image.Image) -> set[tuple[int, int]]:
    """(directory, tag) of the main, Exif and GPS directories; where the pixels of a TIFF lie is no metadata."""
    exif = photo.getexif()
    tags = set() if photo.format == "TIFF" else {(0, tag) for tag in exif if tag not in POINTERS}
    return tags | {(directory, tag) for directory in POINTERS for tag in exif.get_ifd(directory)}


def _resolution(photo: Image.Image) -> tuple[int, ...] | None:
    dpi = photo.info.get("dpi")
    return tuple(round(float(value)) for value in dpi) if dpi else None


def _iptc(photo: ImageFile.ImageFile) -> set[tuple[int, int]]:
    found: dict[tuple[int, int], Any] | None = IptcImagePlugin.getiptcinfo(photo)
    return set(found or ())


def _has_thumbnail(photo: Image.Image) -> bool:
    """Says whether the second EXIF directory points to a picture."""
    if photo.format == "TIFF":
        return getattr(photo, "n_frames", 1) > 1
    directory = photo.getexif().get_ifd(ExifTags.IFD.IFD1)
    return any(tag in directory for tag in THUMBNAIL)

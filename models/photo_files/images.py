"""Reads photos: what a file is, whether the policy admits it, and its pixels.

The limits are checked on the header, before any pixel is decoded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from types import ModuleType

from rid.models.photo_files.jpeg import codec as jpeg
from rid.models.photo_files.marks import MARK_NAMESPACE, Mark, read_mark
from rid.models.photo_files.photos import Photo, PhotoHeader, PhotoRefused
from rid.models.photo_files.png import codec as png
from rid.models.photo_files.tiff import codec as tiff
from rid.models.photo_files.webp import codec as webp
from rid.models.policy import ProtectionPolicy

__all__ = ["Photo", "PhotoHeader", "PhotoRefused", "decode", "mark_of", "read_header", "sniff"]

CODECS: dict[str, ModuleType] = {"JPEG": jpeg, "PNG": png, "WEBP": webp, "TIFF": tiff}
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "another format": (".heic", ".heif", ".avif", ".gif", ".bmp", ".jp2", ".jxl", ".psd", ".dng"),
}
SUFFIX_FORMAT = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}

# What a refusal calls files that are not read, by (offset, bytes) of their content.
OTHER_FORMATS = {
    "a GIF": (0, (b"GIF87a", b"GIF89a")),
    "a BMP": (0, (b"BM",)),
    "a PDF": (0, (b"%PDF",)),
    "a Photoshop file": (0, (b"8BPS",)),
    "a JPEG XL": (0, (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    "a JPEG 2000": (0, (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")),
    "a BigTIFF": (0, (b"II+\x00", b"MM\x00+")),
    "an AVIF": (4, (b"ftypavif", b"ftypavis")),
    "a HEIC": (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
}


def sniff(data: bytes) -> str | None:
    """Returns the format that the first bytes name, or None if it is none of the supported ones."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    return None


def _other_format(data: bytes) -> str:
    for name, (offset, starts) in OTHER_FORMATS.items():
        if data[offset : offset + 12].startswith(starts):
            return name
    return "none of the known picture formats"


def read_header(data: bytes, policy: ProtectionPolicy, name: str = "") -> PhotoHeader:
    """Reads what a file says of itself and holds it against the policy; no pixel is decoded.

    Args:
        data: the whole file.
        policy: the limits.
        name: the photo's name; a suffix of another format is flagged, or refused under `strict_names`.

    Raises:
        PhotoRefused: with the reason why the photo is quarantined.
    """
    if not data:
        raise PhotoRefused("empty", "the file has no bytes")
    if len(data) > policy.max_bytes:
        raise PhotoRefused("too_large", f"{len(data)} bytes; the policy allows {policy.max_bytes}")
    kind = sniff(data)
    if kind is None:
        detail = f"the content is {_other_format(data)}; JPEG, PNG, WebP and TIFF are supported"
        raise PhotoRefused("unsupported_format", detail)
    header: PhotoHeader = CODECS[kind].read_header(data)
    _check_limits(header, policy)
    suffix = PurePosixPath(name).suffix.lower()
    named = SUFFIX_FORMAT.get(suffix, kind)
    if named == kind:
        return header
    if policy.strict_names:
        raise PhotoRefused("format_mismatch", f"the content is {kind}, the name says {suffix}")
    return replace(header, flags=(*header.flags, "format_mismatch"))


def mark_of(data: bytes) -> Mark | None:
    """Returns the mark that a file holds, without decoding it; a file without one costs a search of its bytes."""
    kind = sniff(data)
    if kind is None or MARK_NAMESPACE.encode() not in data:
        return None
    return read_mark(CODECS[kind].read_xmp(data))


def _check_limits(header: PhotoHeader, policy: ProtectionPolicy) -> None:
    size = f"{header.width} x {header.height} pixels"
    if header.width * header.height > policy.max_pixels:
        raise PhotoRefused("too_many_pixels", f"{size}; the policy allows {policy.max_pixels} in all")
    if max(header.width, header.height) > policy.max_side:
        raise PhotoRefused("too_many_pixels", f"{size}; the policy allows {policy.max_side} a side")
    if min(header.width, header.height) < policy.min_side:
        raise PhotoRefused("too_small", f"{size}; the policy asks for {policy.min_side} a side")
    if header.mode == "P" and policy.palette == "quarantine":
        raise PhotoRefused("unsupported_mode", "a palette picture, which the policy quarantines")


def decode(data: bytes, policy: ProtectionPolicy, name: str = "") -> Photo:
    """Decodes a photo whole.

    Args: as `read_header`.

    Raises:
        PhotoRefused: with the reason why the photo is quarantined.
    """
    header = read_header(data, policy, name)
    photo: Photo = CODECS[header.format].decode(data, header)
    return photo

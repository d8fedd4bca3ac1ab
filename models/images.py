"""Reads photos: what a file is, whether the policy admits it, and its pixels.

The limits are checked on the header, before any pixel is decoded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from types import ModuleType

from models.codecs import jpeg, png, tiff, webp
from models.photos import Photo, PhotoHeader, PhotoRefused
from models.policy import ProtectionPolicy

__all__ = ["Photo", "PhotoHeader", "PhotoRefused", "decode", "read_header", "sniff"]

CODECS: dict[str, ModuleType] = {"JPEG": jpeg, "PNG": png, "WEBP": webp, "TIFF": tiff}
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
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
        raise PhotoRefused("unsupported_format", "the content is not JPEG, PNG, WebP or TIFF")
    header: PhotoHeader = CODECS[kind].read_header(data)
    pixels, longest, shortest = (
        header.width * header.height,
        max(header.width, header.height),
        min(header.width, header.height),
    )
    if pixels > policy.max_pixels or longest > policy.max_side:
        raise PhotoRefused(
            "too_many_pixels", f"{header.width} x {header.height} pixels are more than the policy allows"
        )
    if shortest < policy.min_side:
        raise PhotoRefused(
            "too_small", f"{header.width} x {header.height}: the policy asks for {policy.min_side} a side"
        )
    if header.mode == "P" and policy.palette == "quarantine":
        raise PhotoRefused("unsupported_mode", "a palette picture, which the policy quarantines")
    suffix = PurePosixPath(name).suffix.lower()
    if suffix and suffix not in SUFFIXES[kind]:
        if policy.strict_names:
            raise PhotoRefused("format_mismatch", f"the content is {kind}, the name says {suffix}")
        header = replace(header, flags=(*header.flags, "format_mismatch"))
    return header


def decode(data: bytes, policy: ProtectionPolicy, name: str = "") -> Photo:
    """Decodes a photo whole.

    Args: as `read_header`.

    Raises:
        PhotoRefused: with the reason why the photo is quarantined.
    """
    header = read_header(data, policy, name)
    photo: Photo = CODECS[header.format].decode(data, header)
    return photo

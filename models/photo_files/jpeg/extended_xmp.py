"""XMP in a JPEG: one packet in a segment of its own, and an extension in others where a segment is too short.

XMP Specification Part 3 (2020), 1.1.3.1: the packet names the extension by its MD5; each part of it says which
extension it is of, how long that is and where the part goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from rid.models.photo_files.metadata import EXTENSION, clean_text, clean_xmp

XMP = b"http://ns.adobe.com/xap/1.0/\x00"
XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\x00"
MAX_PACKET = 65_533 - len(XMP)
_HEAD = len(XMP_EXTENSION) + 32 + 4 + 4  # digest, length of the whole, offset of the part
_PART = 65_400


@dataclass(frozen=True)
class JpegXmp:
    """The XMP of a JPEG without pictures.

    Attributes:
        packet: the packet; empty if there is none.
        extension: the extended packet; empty if there is none.
        parts: the payloads of the extension's segments.
        flags: what had to be left out.
    """

    packet: bytes
    extension: bytes
    parts: tuple[bytes, ...]
    flags: tuple[str, ...]


def clean_jpeg_xmp(payloads: Iterable[bytes]) -> JpegXmp:
    """Reads the XMP of a JPEG from its APP1 segments; a second packet and an extension that nothing names are dropped.

    Args:
        payloads: of all APP1 segments, in order.
    """
    listed = list(payloads)
    packets = [payload[len(XMP) :] for payload in listed if payload.startswith(XMP)]
    parts = [payload for payload in listed if payload.startswith(XMP_EXTENSION)]
    packet = packets[0] if packets else b""
    named = EXTENSION.search(packet)
    digest = next((group for group in named.groups() if group), b"") if named else b""
    whole = _joined(parts, digest)
    extension = clean_text(whole)
    new_digest = hashlib.md5(extension.data, usedforsecurity=False).hexdigest().upper().encode()
    block = clean_xmp(packet, new_digest if extension.data else b"")
    kept = extension.data if block.data else b""
    lost = len(packets) > 1 or (bool(parts) and not whole) or (bool(kept) != bool(extension.data))
    flags = (*block.flags, *extension.flags, *("metadata_dropped",) * lost)
    return JpegXmp(block.data, kept, _split(kept, new_digest), flags)


def _joined(parts: list[bytes], digest: bytes) -> bytes:
    """The extension of a digest; empty if a part of it is missing."""
    own = [part for part in parts if len(part) >= _HEAD and part[len(XMP_EXTENSION) :].startswith(digest)]
    if len(digest) != 32 or not own:
        return b""
    placed = sorted((int.from_bytes(part[_HEAD - 4 : _HEAD], "big"), part[_HEAD:]) for part in own)
    whole = b""
    for offset, text in placed:
        if offset != len(whole):
            return b""
        whole += text
    return whole if len(whole) == int.from_bytes(own[0][_HEAD - 8 : _HEAD - 4], "big") else b""


def _split(extension: bytes, digest: bytes) -> tuple[bytes, ...]:
    length = len(extension).to_bytes(4, "big")
    return tuple(
        XMP_EXTENSION + digest + length + at.to_bytes(4, "big") + extension[at : at + _PART]
        for at in range(0, len(extension), _PART)
    )

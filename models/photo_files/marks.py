"""The mark of a protected photo: what protected it, and a digest of its pixels, in an XMP namespace of its own.

A mark alone proves nothing, since anyone can write one. It says which receipt to look for, and it holds only while the
pixels are those that it was made for. It names no person, place or path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from rid.models import data_mining
from rid.models.photo_files.photos import Photo, Pixels
from rid.models.photo_files.xmp import EMPTY, Packet, Property, UnreadablePacket

MARK_NAMESPACE = "urn:rid-catalog:mark:1.0/"
PREFIX = "rid"
DEFENDER, BUDGET, PIXELS = "Defender", "BudgetLevels", "PixelsSha256"

OTHER_PICTURES = {"renditions_removed", "trailing_bytes_removed"}

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEVELS = re.compile(r"[1-9][0-9]?")


@dataclass(frozen=True)
class Mark:
    """The mark of a protected photo.

    Attributes:
        defender_digest: of the defender.
        budget_levels: the budget, in 8-bit levels.
        pixels_sha256: see `pixels_sha256`.
    """

    defender_digest: str
    budget_levels: int
    pixels_sha256: str


class AlreadyProtected(Exception):
    """A photo whose mark holds: it is published as it is instead of being changed once more.

    Attributes:
        mark: its mark.
        format: of its file.
    """

    def __init__(self, mark: Mark, format: str) -> None:
        super().__init__("the photo is protected already")
        self.mark = mark
        self.format = format

    def __reduce__(self) -> tuple[type[AlreadyProtected], tuple[Mark, str]]:
        return AlreadyProtected, (self.mark, self.format)


def pixels_sha256(pixels: Pixels) -> str:
    """Returns the sha256 of decoded pixels, (H, W) or (H, W, C) uint8 as stored, and of their shape."""
    digest = hashlib.sha256(" x ".join(str(side) for side in pixels.shape).encode() + b"\n")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def read_mark(packet: bytes) -> Mark | None:
    """Returns the mark of an XMP packet; None if it has none, or one that is not whole or contradicts itself."""
    if MARK_NAMESPACE.encode() not in packet:
        return None
    try:
        found = Packet(packet)
    except UnreadablePacket:
        return None
    values = [found.values(MARK_NAMESPACE, name) for name in (DEFENDER, BUDGET, PIXELS)]
    if any(len(value) != 1 for value in values):
        return None
    (defender,), (budget,), (pixels,) = values
    if not (_DIGEST.fullmatch(defender) and _LEVELS.fullmatch(budget) and _DIGEST.fullmatch(pixels)):
        return None
    return Mark(defender, int(budget), pixels)


def held_mark(photo: Photo) -> Mark | None:
    """Returns the mark of a decoded photo if it was made for these pixels; None if not, or if there is none.

    A file that also holds another picture has none that holds: the other picture may be the unprotected one.
    """
    mark = read_mark(photo.xmp)
    if mark is None or not OTHER_PICTURES.isdisjoint(photo.flags):
        return None
    return mark if mark.pixels_sha256 == pixels_sha256(photo.pixels) else None


def with_mark(packet: bytes, mark: Mark | None, prohibited: str | None = None, *, elsewhere: bytes = b"") -> bytes:
    """Returns an XMP packet with a mark in the place of any that it has, and with a prohibition of data mining.

    Args:
        packet: the packet, or nothing.
        mark: the mark; None writes none.
        prohibited: an entry of `data_mining.RISING`, which never loosens what the packet says.
        elsewhere: XMP outside of the packet; what it says of data mining stays the last word.

    Raises:
        UnreadablePacket: if the packet cannot be changed without losing what it says.
    """
    if not mark and not prohibited and MARK_NAMESPACE.encode() not in packet:
        return packet
    parsed = Packet(packet or EMPTY)
    add = []
    if mark is not None:
        values = {DEFENDER: mark.defender_digest, BUDGET: str(mark.budget_levels), PIXELS: mark.pixels_sha256}
        add = [Property(PREFIX, MARK_NAMESPACE, name, value) for name, value in values.items()]
    mining = (data_mining.NAMESPACE, data_mining.NAME)
    said_elsewhere = data_mining.NAME.encode() in elsewhere
    word = data_mining.tightened(parsed.values(*mining), prohibited) if prohibited and not said_elsewhere else None
    if word is not None:
        add.append(Property("plus", *mining, word))
    return parsed.edited(
        lambda namespace, name: namespace == MARK_NAMESPACE or (word is not None and (namespace, name) == mining), add
    )

"""Rules for names: those that may become files of a folder target, and those that would overwrite each other.

Keys come from listings and from Parquet columns, so they are data that nobody checked. A name that could leave the
target, that no file system carries faithfully, or that meets another one on a case-insensitive or normalising file
system, is quarantined; every photo that takes part in a collision is, so that the outcome has no order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rid.resources.schemas import Reason

MAX_COMPONENT_BYTES = 240  # 255 on common file systems, less what a temporary name adds
MAX_NAME_BYTES = 1000  # an S3 key holds 1,024
DOT_PART = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
# Control characters, backslashes, controls of the writing direction, and the lone surrogates of undecodable bytes.
FORBIDDEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\\\\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
RESERVED = frozenset({"_rid", "_delta_log"})


@dataclass(frozen=True)
class NameFault:
    """The reason why a name is not used, `unsafe_name` or `name_collision`, and a sentence part."""

    reason: Reason
    detail: str


def name_faults(keys: Sequence[str], taken: Iterable[str] = ()) -> dict[int, NameFault]:
    """Returns the faults of `keys` by position; a key without one is absent.

    Args:
        keys: names relative to the target, with `/` between folders.
        taken: names that another drop has published in the same target.
    """
    faults = {i: NameFault(Reason.UNSAFE_NAME, detail) for i, key in enumerate(keys) if (detail := unsafe(key))}
    folded = [fold(key) for key in keys]
    seen: dict[str, int] = {}
    folders: set[str] = set()
    for name in folded:
        seen[name] = seen.get(name, 0) + 1
        cut = name.rfind("/")
        while cut > 0 and name[:cut] not in folders:
            folders.add(name[:cut])
            cut = name.rfind("/", 0, cut)
    others = {fold(name) for name in taken}
    for i, name in enumerate(folded):
        if i in faults:
            continue
        if seen[name] > 1:
            faults[i] = NameFault(Reason.NAME_COLLISION, "another photo has this name but for case or Unicode form")
        elif name in folders:
            faults[i] = NameFault(Reason.NAME_COLLISION, "another photo lies in a folder of this name")
        elif name in others:
            faults[i] = NameFault(Reason.NAME_COLLISION, "another drop has published this name in the target")
    return faults


def unsafe(key: str) -> str | None:
    """Returns what makes a name unsafe as a relative file path, or None."""
    if not key or key.startswith(("/", "\\")) or (len(key) > 1 and key[1] == ":"):
        return "the name is empty or absolute"
    if DOT_PART.search(key):
        return "the name has an empty, '.' or '..' part"
    if key.partition("/")[0] in RESERVED:
        return f"the name starts with the reserved folder {key.partition('/')[0]}"
    if FORBIDDEN.search(key):
        return "the name has a control character, a backslash or bytes that are not UTF-8"
    if 4 * len(key) > MAX_COMPONENT_BYTES:  # only then can it be too long
        parts = key.encode().split(b"/")
        if len(key.encode()) > MAX_NAME_BYTES or max(map(len, parts)) > MAX_COMPONENT_BYTES:
            return "the name is too long"
    return None


def fold(key: str) -> str:
    """The form in which names meet on case-insensitive or Unicode-normalising file systems."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())

"""Directories of a TIFF file: read from the original, written after newly coded pixels.

TIFF 6.0: a header points to a directory of 12-byte entries (tag, type, count, value or where the value lies).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # by type
WORD_BYTES = VALUE_BYTES | {5: 4, 10: 4}  # a rational is two words
BYTE, SHORT, LONG = 1, 3, 4
MAX_DIRECTORIES = 32  # after the first; smaller versions of one picture are fewer


@dataclass(frozen=True)
class Entry:
    """One entry of a directory; `value` holds `count` values of type `kind` in little-endian order."""

    tag: int
    kind: int
    count: int
    value: bytes


@dataclass(frozen=True)
class Directory:
    """The entries of a directory, and whether some could not be read."""

    entries: tuple[Entry, ...]
    damaged: bool

    def get(self, tag: int) -> Entry | None:
        """Returns the entry of a tag, or None."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


def first_directory(data: bytes) -> int:
    """Returns where a file's first directory lies, as its header says."""
    return int(struct.unpack_from(_order(data) + "I", data, 4)[0]) if len(data) >= 8 else len(data)


def read_directory(data: bytes, offset: int) -> Directory:
    """Reads the directory at `offset`.

    Entries outside the file or of unknown type are left out, and those after the values have taken more bytes than the
    file has: they lie on top of each other.
    """
    order = _order(data)
    if not 8 <= offset <= len(data) - 2:
        return Directory((), damaged=True)
    count = struct.unpack_from(order + "H", data, offset)[0]
    entries: list[Entry] = []
    total = 0
    for at in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, at)
        size = VALUE_BYTES.get(kind, 0) * number
        start = at + 8 if size <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
        total += size
        if size and start + size <= len(data) and total <= len(data):
            value = data[start : start + size]
            entries.append(Entry(tag, kind, number, value if order == "<" else _swapped(value, WORD_BYTES[kind])))
    return Directory(tuple(entries), damaged=len(entries) < count)


def later_directories(data: bytes) -> Iterator[Directory]:
    """Reads the directories that follow the first one; a chain without an end stops with an empty one.

    They are read one by one, since each of them may be as large as the file.
    """
    order, at = _order(data), first_directory(data)
    seen: set[int] = set()
    while 8 <= at <= len(data) - 2:
        if at in seen or len(seen) > MAX_DIRECTORIES:
            yield Directory((), damaged=True)
            return
        if seen:
            yield read_directory(data, at)
        seen.add(at)
        end = at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0]
        at = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0


def with_entries(
    coded: bytes, entries: tuple[Entry, ...], directories: tuple[tuple[int, tuple[Entry, ...]], ...]
) -> bytes:
    """Returns a little-endian TIFF whose first directory also has `entries` and pointers to `directories`.

    The new directory goes to the end of the file, so that the pixels stay where they are.
    """
    if coded[:2] != b"II":
        raise ValueError("only little-endian files can be given more entries")
    out = bytearray(coded)
    merged = {entry.tag: entry for entry in entries}
    for tag, inner in directories:
        out += bytes(len(out) % 2)
        merged[tag] = Entry(tag, LONG, 1, struct.pack("<I", len(out)))
        out += _written(inner, len(out))
    merged |= {entry.tag: entry for entry in read_directory(coded, first_directory(coded)).entries}
    out += bytes(len(out) % 2)
    out[4:8] = struct.pack("<I", len(out))
    out += _written(tuple(merged.values()), len(out))
    return bytes(out)


def with_short(data: bytes, tag: int, value: int) -> bytes:
    """Returns the file with the value of one SHORT entry of its first directory replaced."""
    order, offset = _order(data), first_directory(data)
    count = struct.unpack_from(order + "H", data, offset)[0]
    out = bytearray(data)
    for at in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        if struct.unpack_from(order + "H", data, at)[0] == tag:
            struct.pack_into(order + "HHIHH", out, at, tag, SHORT, 1, value, 0)
    return bytes(out)


def _written(entries: tuple[Entry, ...], at: int) -> bytes:
    """Returns a directory that lies at `at`, followed by the values that do not fit into its entries."""
    head, values = [struct.pack("<H", len(entries))], bytearray()
    values_at = at + 2 + 12 * len(entries) + 4
    for entry in sorted(entries, key=lambda entry: entry.tag):
        field = entry.value.ljust(4, b"\x00")
        if len(entry.value) > 4:
            field = struct.pack("<I", values_at + len(values))
            values += entry.value + bytes(len(entry.value) % 2)
        head.append(struct.pack("<HHI", entry.tag, entry.kind, entry.count) + field)
    return b"".join([*head, bytes(4)]) + bytes(values)


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _swapped(value: bytes, word: int) -> bytes:
    """Reverses the bytes of each word."""
    if word == 1:
        return value
    return b"".join(value[at : at + word][::-1] for at in range(0, len(value), word))

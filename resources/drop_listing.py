"""The drops under a source and their contents, from one listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rid.resources.storage import FileEntry, Storage

PARQUET = ".parquet"


@dataclass(frozen=True)
class DropListing:
    """One folder or Parquet file at the top of a source.

    Attributes:
        name: what the drop would be called.
        entry: the folder, with `/` at its end, or the file.
        fingerprint: digest of the names, sizes, and ETags or modification times of its files.
        files: number of files; hidden ones, and those in a folder that begins with `_` or `.`, do not count.
        marked: whether the marker is in the folder.
        last: the file that was listed last.
    """

    name: str
    entry: str
    fingerprint: str
    files: int
    marked: bool
    last: str

    @property
    def is_folder(self) -> bool:
        """True for a folder, False for a Parquet file."""
        return self.entry.endswith("/")


def list_drops(source: Storage, after: str = "", marker: str = "") -> Iterator[DropListing]:
    """Yields what lies at the top of a source, in a fixed order; other files there are passed over.

    Args:
        source: where drops arrive.
        after: begins behind the entry that this file belongs to, which was listed before.
        marker: name of the file that says that a folder is complete; it is not part of the drop.
    """
    seen = _top(after)
    for entry, files in groupby(source.list_from(after), key=lambda file: _top(file.path)):
        if entry == seen or entry.startswith((".", "_")):
            continue
        if entry.endswith("/"):
            yield _folder(entry, files, marker)
        elif entry.endswith(PARQUET):
            (file,) = files
            yield DropListing(entry.removesuffix(PARQUET), entry, _digest([file.identity]), 1, False, file.path)


def _top(path: str) -> str:
    name, slash, _ = path.partition("/")
    return name + slash


def _folder(entry: str, files: Iterator[FileEntry], marker: str) -> DropListing:
    seen: list[str] = []
    marked, last = False, ""
    for file in files:
        last = file.path
        path = last.removeprefix(entry)
        if path == marker:
            marked = True
        elif not any(part.startswith((".", "_")) for part in path.split("/")):
            seen.append(f"{path}\t{file.identity}")
    return DropListing(entry[:-1], entry, _digest(seen), len(seen), marked, last)


def _digest(lines: list[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]

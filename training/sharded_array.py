"""Equal arrays in many .npy files, read as one: `ShardedArray` looks like an (N, ...) array and holds none of it.

Files are mapped when an item of theirs is asked for, and only the last few stay mapped (`MAPPED_FILES` and
`MAPPED_BYTES`), so that the memory of a reader does not grow with N. A file's name stands for its content: whoever
writes it puts a digest there.

n items in a file, N in all.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAPPED_FILES = 32  # that stay mapped; each holds a file descriptor
MAPPED_BYTES = 96 * 2**20  # of files that stay mapped; the kernel counts those of them that were read


class ShardedArray:
    """(N, *item) items of one shape and type over .npy files of (n, *item) each; n may differ and be 0.

    Threads may read it together.

    Attributes:
        files: in order.
        shape: (N, *item).
        dtype: of the items.
    """

    def __init__(
        self, files: Sequence[Path], item: Sequence[int], dtype: DTypeLike, *, mapped: int = MAPPED_BYTES
    ) -> None:
        """Reads the files' headers.

        Args:
            files: in order; none is an array without items.
            item: the shape of an item.
            dtype: of the items.
            mapped: bytes of files that stay mapped; one file always does.

        Raises:
            ValueError: if a file is missing, torn, or holds items of another shape or type.
        """
        self.files, self.dtype = list(files), np.dtype(dtype)
        self._offsets: list[int] = []
        counts = []
        for file in self.files:
            count, offset = _header(file, tuple(item), self.dtype)
            counts.append(count)
            self._offsets.append(offset)
        self._ends = np.cumsum(counts, dtype=np.int64)  # (files,) items up to each file's end
        self.shape = (int(self._ends[-1]) if counts else 0, *item)
        self._mapped: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._limit, self._bytes, self._lock = mapped, 0, threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | np.integer[Any] | slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Returns a view of one item, (*item), or a copy of several, (K, *item)."""
        if isinstance(index, int | np.integer):
            return self._item(int(index))
        chosen = range(*index.indices(len(self))) if isinstance(index, slice) else index
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for place, one in enumerate(chosen):
            found[place] = self._item(int(one))
        return found

    def counts(self) -> list[int]:
        """Returns the items of each file."""
        return [int(count) for count in np.diff(self._ends, prepend=0)]

    def _item(self, index: int) -> NDArray[Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no item {index}: there are {len(self)}")
        index %= len(self)
        place = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[place - 1]) if place else 0
        item: NDArray[Any] = self._file(place)[index - first]
        return item

    def _file(self, place: int) -> NDArray[Any]:
        """Maps a file, and lets go of the one that was not read for longest."""
        with self._lock:
            found = self._mapped.get(place)
            if found is None:
                count = int(self._ends[place]) - (int(self._ends[place - 1]) if place else 0)
                shape = (count, *self.shape[1:])
                try:
                    found = np.memmap(self.files[place], self.dtype, "r", self._offsets[place], shape)
                except FileNotFoundError as error:
                    raise ValueError(_missing(self.files[place])) from error
                self._mapped[place] = found
                self._bytes += found.nbytes
                while len(self._mapped) > (MAPPED_FILES if self._bytes <= self._limit else 1):
                    self._bytes -= self._mapped.popitem(last=False)[1].nbytes
            self._mapped.move_to_end(place)
            return found


Items: TypeAlias = "NDArray[Any] | ShardedArray"


def content_digest(items: Items) -> str:
    """Returns the sha256 of what an array holds: its bytes, or the names and lengths of its files in order."""
    digest = hashlib.sha256(f"{items.dtype} {tuple(items.shape)}".encode())
    if isinstance(items, ShardedArray):
        for file, count in zip(items.files, items.counts(), strict=True):
            digest.update(f"\n{file.stem} {count}".encode())
    else:
        digest.update(np.ascontiguousarray(items).data)
    return digest.hexdigest()


def _header(file: Path, item: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Returns how many items a .npy file has and where they begin."""
    try:
        with file.open("rb") as opened:
            version = np.lib.format.read_magic(opened)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, found = read(opened)
            offset = opened.tell()
    except FileNotFoundError as error:
        raise ValueError(_missing(file)) from error
    except ValueError as error:
        raise ValueError(f"{file} is no .npy file ({error}): delete it and run again to make it anew") from error
    if shape[1:] != item or found != dtype or by_columns:
        raise ValueError(
            f"{file} holds {found} of {shape[1:]} where {dtype} of {item} is needed: delete it and run again"
        )
    size = offset + int(np.prod(shape)) * dtype.itemsize
    if file.stat().st_size != size:
        raise ValueError(
            f"{file} has {file.stat().st_size} bytes where its header says {size}: delete it and run again"
        )
    return int(shape[0]), offset


def _missing(file: Path) -> str:
    return f"{file} is missing: it was removed meanwhile; run again to make it anew"

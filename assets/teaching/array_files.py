""".npy files: written whole or item by item, and fetched to where they can be mapped.

n items in a file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rid.resources.storage import Storage

FETCHES = 8  # files that are fetched at once


class ArrayWriter:
    """Writes an (n, *item) .npy file one item at a time; n is known when it is closed. Use as a context manager."""

    def __init__(self, file: Path, item: Sequence[int], dtype: DTypeLike) -> None:
        self._item, self._dtype = tuple(item), np.dtype(dtype)
        self._file = file.open("wb")
        self._file.write(_header(0, self._item, self._dtype))
        self.count = 0

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.seek(0)
            self._file.write(_header(self.count, self._item, self._dtype))

    def append(self, item: NDArray[Any]) -> None:
        """Writes one item.

        Raises:
            ValueError: if it has another shape or type.
        """
        if item.shape != self._item or item.dtype != self._dtype:
            raise ValueError(f"an item is {item.dtype} {item.shape} where {self._dtype} {self._item} is needed")
        self._file.write(np.ascontiguousarray(item).data)
        self.count += 1


def items_in(size: int, item: Sequence[int], dtype: DTypeLike) -> int:
    """Returns how many items a file of `size` bytes holds that `ArrayWriter` wrote."""
    dtype = np.dtype(dtype)
    return (size - len(_header(0, tuple(item), dtype))) // (math.prod(item) * dtype.itemsize)


def local_files(storage: Storage, names: Sequence[str], folder: Path) -> list[Path]:
    """Returns where files lie on this machine; those of S3 are copied, a few at once, each name once.

    Args:
        storage: that has them; a name stands for its content.
        names: of the files.
        folder: of the copies; what it holds already is not copied again.

    Raises:
        ValueError: if one is missing.
    """
    if not storage.is_s3:
        return [Path(storage.url) / name for name in names]

    def fetch(name: str) -> None:
        if (folder / name).is_file():
            return
        try:
            Storage(str(folder)).write_bytes(name, storage.read_bytes(name))
        except FileNotFoundError as error:
            raise ValueError(f"{storage.uri(name)} is missing: it was removed meanwhile; run again") from error

    with ThreadPoolExecutor(FETCHES) as pool:
        list(pool.map(fetch, dict.fromkeys(names)))
    return [folder / name for name in names]


def store_array(storage: Storage, name: str, array: NDArray[Any]) -> None:
    """Writes one .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    storage.write_bytes(name, buffer.getvalue())


def load_array(storage: Storage, name: str) -> NDArray[Any]:
    """Reads one .npy file; pickles are refused."""
    array: NDArray[Any] = np.load(io.BytesIO(storage.read_bytes(name)), allow_pickle=False)
    return array


def _header(count: int, item: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Returns the start of a .npy file; numpy leaves room for any count, so that its length is the same for all."""
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *item)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()

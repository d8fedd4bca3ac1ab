"""The rows of a drop's catalog by key, without holding them: the table is mapped, and 16 bytes a row are in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from rid.resources.mapped_tables import iter_values
from rid.resources.records import CatalogRow, read_records


class CatalogRows:
    """Finds rows of a catalog by key and counts how often each was asked for.

    Args:
        rows: in the CATALOG schema; keys are unique.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        hashes = np.fromiter(map(hash, iter_values(rows.column("key"))), np.int64, rows.num_rows)
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]
        self._counts = np.zeros(rows.num_rows, np.int32)

    def find(self, key: str) -> int | None:
        """Returns the number of the row with this key."""
        wanted = hash(key)
        for place in range(int(np.searchsorted(self._hashes, wanted)), len(self._hashes)):
            if self._hashes[place] != wanted:
                return None
            number = int(self._order[place])
            if self._rows.column("key")[number].as_py() == key:
                return number
        return None

    def row(self, key: str) -> CatalogRow | None:
        """Returns a row by its key."""
        number = self.find(key)
        return next(read_records(CatalogRow, self._rows.slice(number, 1))) if number is not None else None

    def count(self, key: str) -> bool:
        """Counts a key; False if no row has it."""
        number = self.find(key)
        if number is not None:
            self._counts[number] += 1
        return number is not None

    def counted(self) -> int:
        """Returns how many keys of the catalog were counted, repetitions included."""
        return int(self._counts.sum())

    def uneven(self) -> Iterator[tuple[str, int]]:
        """Yields keys that were not counted exactly once, and their counts, in the order of the catalog."""
        for number in np.flatnonzero(self._counts != 1):
            yield self._rows.column("key")[int(number)].as_py(), int(self._counts[number])

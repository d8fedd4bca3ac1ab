"""Where the perturbations of one teacher on one set of models lie: by the photos they belong to, whatever the drop.

- `photos/<digest>.npy`: the photos that tasks read.
- `perturbations/<address>.npy`: one file a unit, (N, S, S, 3) int8 levels.
- `checkpoints/<run>.json` and `<run>-<part>`: of runs that are under way.
- `drops/<drop>/<selection>.json`: which units a drop's selection has, written when all of them are there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from rid.assets.teaching.array_files import load_array, store_array
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit

PART_BYTES = 2**30  # S3 takes at most 5 GiB in one PUT; a pool of surrogates is larger


@dataclass(frozen=True)
class Selection:
    """Which photos of a drop get a perturbation, and together with which.

    Attributes:
        share: of the photos, or of the people where a method learns people.
        seed: of the share.
        set_by: how people are told apart, see `TeacherRunConfig`; "" for a method that takes photos alone.
        set_size: photos a set may have.
        largest: photos at which no unit is added any more; None takes the whole share.
    """

    share: float
    seed: int
    set_by: str = ""
    set_size: int = 1
    largest: int | None = None

    def digest(self) -> str:
        """Returns the sha256 of every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DropIndex:
    """The perturbations of a drop.

    Attributes:
        catalog: file name of the catalog they were chosen from, which holds its digest.
        photos: photos that could be decoded.
        units: those that were perturbed.
    """

    catalog: str
    photos: int
    units: tuple[Unit, ...]

    @property
    def perturbations(self) -> int:
        """Photos that were perturbed."""
        return len({digest for unit in self.units for digest in unit.photos})


class TeacherCache:
    """The files of one teacher and one set of models."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def addresses(self) -> set[str]:
        """Lists the units that have perturbations."""
        return self._names("perturbations")

    def photos(self) -> set[str]:
        """Lists the photos that are stored."""
        return self._names("photos")

    def has(self, unit: Unit) -> bool:
        """Says whether a unit has perturbations."""
        return self.storage.exists(f"perturbations/{unit.address}.npy")

    def read_photo(self, digest: str) -> NDArray[np.uint8]:
        """Returns an (S, S, 3) photo."""
        return load_array(self.storage, f"photos/{digest}.npy")

    def write_photo(self, digest: str, square: NDArray[np.uint8]) -> None:
        """Stores an (S, S, 3) photo."""
        store_array(self.storage, f"photos/{digest}.npy", square)

    def read(self, unit: Unit) -> NDArray[np.int8]:
        """Returns a unit's (N, S, S, 3) perturbations, in the order of its photos."""
        return self.read_levels(unit.address)

    def read_levels(self, address: str) -> NDArray[np.int8]:
        """Returns the (N, S, S, 3) perturbations of the unit of an address."""
        return load_array(self.storage, f"perturbations/{address}.npy")

    def write(self, address: str, levels: NDArray[np.int8]) -> None:
        """Stores a unit's perturbations; the file appears whole."""
        store_array(self.storage, f"perturbations/{address}.npy", levels)

    def read_index(self, drop: str, selection: Selection) -> DropIndex | None:
        """Returns what was perturbed of a drop, or None if that was never finished."""
        name = _index_name(drop, selection)
        if not self.storage.exists(name):
            return None
        fields = json.loads(self.storage.read_bytes(name))
        return DropIndex(fields["catalog"], fields["photos"], tuple(Unit(tuple(one)) for one in fields["units"]))

    def write_index(self, drop: str, selection: Selection, index: DropIndex) -> None:
        """Says that a drop is finished; what it says already is not written again."""
        fields = {"catalog": index.catalog, "photos": index.photos, "units": [unit.photos for unit in index.units]}
        name, text = _index_name(drop, selection), json.dumps(fields).encode()
        if not self.storage.exists(name) or self.storage.read_bytes(name) != text:
            self.storage.write_bytes(name, text)

    def _names(self, folder: str) -> set[str]:
        inside = self.storage.child(folder)
        return {entry.path.removesuffix(".npy") for entry in inside.list_files()} if inside.is_folder() else set()


class StoredCheckpoint:
    """A run's checkpoint in parts. The head is written last and names the parts, so a reader finds whole ones only."""

    def __init__(self, storage: Storage, run: str, part_bytes: int = PART_BYTES) -> None:
        self._storage, self._run, self._part_bytes = storage, run, part_bytes

    def read(self) -> bytes | None:
        """Returns the blob, or None if there is none."""
        parts = self._parts()
        return b"".join(self._storage.read_bytes(part) for part in parts) if parts else None

    def write(self, data: bytes) -> None:
        """Writes new parts, then the head, then deletes the old parts."""
        old, view = self._parts(), memoryview(data)
        digest = hashlib.sha256(data).hexdigest()[:16]
        parts = [f"checkpoints/{self._run}-{digest}-{i}" for i in range(-(-len(data) // self._part_bytes))]
        for index, part in enumerate(parts):
            start = index * self._part_bytes
            self._storage.write_bytes(part, bytes(view[start : start + self._part_bytes]))
        self._storage.write_bytes(self._head, json.dumps(parts).encode())
        for part in set(old) - set(parts):
            self._storage.discard(part)

    def delete(self) -> None:
        """Removes head and parts; none is fine."""
        parts = self._parts()
        self._storage.discard(self._head)
        for part in parts:
            self._storage.discard(part)

    @property
    def _head(self) -> str:
        return f"checkpoints/{self._run}.json"

    def _parts(self) -> Sequence[str]:
        if not self._storage.exists(self._head):
            return []
        parts: list[str] = json.loads(self._storage.read_bytes(self._head))
        return parts


def _index_name(drop: str, selection: Selection) -> str:
    return f"drops/{drop}/{selection.digest()[:32]}.json"

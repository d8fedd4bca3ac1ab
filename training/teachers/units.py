"""Units of perturbation and their names: a photo, or the photos of one person together.

A unit's address is the sha256 of its photos alone. Kept beside the digests of teacher and models, it names its
perturbations: the same photo, teacher and models are never worked on twice, and another photo in a person's set makes
another set. Nothing here needs torch.

S side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Unit:
    """One or more photos, by their digests, sorted."""

    photos: tuple[str, ...]

    @property
    def address(self) -> str:
        """sha256 of the photos; of one photo, its digest."""
        return self.photos[0] if len(self.photos) == 1 else _sha256("\n".join(self.photos).encode())


def photo_digest(square: NDArray[np.uint8]) -> str:
    """Returns the sha256 of an (S, S, 3) photo and its shape."""
    return _sha256(f"{square.shape}".encode() + np.ascontiguousarray(square).tobytes())


def person_units(people: Mapping[str, Iterable[str]], largest: int) -> list[Unit]:
    """Returns the sets of each person's photos; more than `largest` photos are spread over several even sets.

    Args:
        people: photo digests by person; repeated photos count once.
        largest: photos a set may have.
    """
    units = []
    for digests in people.values():
        ordered = sorted(set(digests))
        count = -(-len(ordered) // largest)
        bounds = [i * len(ordered) // count for i in range(count + 1)]
        units += [Unit(tuple(ordered[low:high])) for low, high in pairwise(bounds)]
    return units


def run_name(units: Sequence[Unit]) -> str:
    """Names a run over some units, and with it the checkpoint."""
    return _sha256("\n".join(unit.address for unit in units).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

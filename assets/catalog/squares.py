"""Photos of catalogued drops as squares at a defender's working resolution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rid.assets.catalog.plan import DropCatalog, read_current
from rid.assets.catalog.sources import read_photos
from rid.models.photo_files.images import decode
from rid.models.photo_files.photos import PhotoRefused
from rid.models.photo_files.resampling import to_upright
from rid.models.policy import ProtectionPolicy
from rid.models.protector import colour_planes
from rid.models.upright_photos import centre_square
from rid.resources.records import CatalogRow
from rid.resources.storage import Storage

READER_EPOCH = 1  # names the squares that are kept: raised where the same photo gives other pixels


@dataclass(frozen=True)
class TrainingPhoto:
    """One photo to learn from.

    Attributes:
        square: (side, side, 3) uint8, upright.
        key: its name in the catalog.
    """

    square: NDArray[np.uint8]
    key: str


def current_catalog(state: Storage, drop: str) -> DropCatalog:
    """Returns the drop's catalog.

    Raises:
        ValueError: if it has none.
    """
    catalog = read_current(state, drop)
    if catalog is None:
        raise ValueError(f"drop {drop!r} has no catalog: materialise photo_catalog first")
    return catalog


def read_squares(rows: Iterable[CatalogRow], side: int) -> Iterator[TrainingPhoto]:
    """Yields the photos of some rows of a catalog that can be decoded; one is in memory at a time.

    Raises:
        InputChanged: if a photo is another one than its row says.
    """
    policy = ProtectionPolicy()
    for photo in read_photos(rows):
        if photo.data is None:
            continue
        try:
            decoded = decode(photo.data, policy)
        except PhotoRefused:
            continue  # it is quarantined where the drop is protected; here it is only not learned from
        upright = to_upright(colour_planes(decoded.pixels), decoded.header.orientation)
        yield TrainingPhoto(centre_square(upright, side), photo.row.key)

"""Photos of catalogued drops as squares at a defender's working resolution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.assets.catalog.plan import DropCatalog, read_current
from rid.assets.catalog.sources import read_photos
from rid.models.photo_files.images import decode
from rid.models.photo_files.photos import PhotoRefused
from rid.models.photo_files.resampling import shrink, to_upright
from rid.models.policy import ProtectionPolicy
from rid.models.protector import colour_planes
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


def centre_square(upright: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns the centre square of an upright (H, W) or (H, W, 3) picture as (side, side, 3)."""
    small = shrink(np.ascontiguousarray(upright), side)
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    square = small[top : top + side, left : left + side]
    return cv2.cvtColor(square, cv2.COLOR_GRAY2RGB) if square.ndim == 2 else np.ascontiguousarray(square)

"""Photos as they came and as they were published: to look at, and to measure what protection does."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rid.assets.catalog.plan import DropCatalog, read_catalog
from rid.assets.catalog.rows import CatalogRows
from rid.assets.catalog.sources import read_original
from rid.assets.protection.shards.files import find_photos
from rid.models.upright_photos import upright_rgb
from rid.resources.commits import ProtectedTable
from rid.resources.storage import Storage


@dataclass(frozen=True)
class _PublishedRow:
    """The part of a receipt that says where a photo was published."""

    key: str
    output_path: str | None


@dataclass(frozen=True)
class PhotoPair:
    """One photo, upright, (H, W, 3) uint8 RGB.

    Attributes:
        key: its name.
        clean: as it came.
        protected: as it was published, of the same shape.
    """

    key: str
    clean: NDArray[np.uint8]
    protected: NDArray[np.uint8]


def photo_pairs(
    table: ProtectedTable, target: Storage, drop: str, catalog: DropCatalog, keys: Collection[str]
) -> Iterator[PhotoPair]:
    """Yields the pairs of some protected photos, in the order of the keys' hashes in the table.

    A photo whose original is gone or was overwritten since has no pair.

    Args:
        table: of protected photos, or of receipts.
        target: where a folder target keeps its files.
        drop: its name.
        catalog: the drop's catalog.
        keys: the photos.
    """
    wanted = set(keys)
    originals = CatalogRows(read_catalog(catalog))
    for row, image in _published_rows(table, drop, wanted):
        original = read_original(originals.row(row.key))
        published = target.read_bytes(row.output_path) if row.output_path else image
        if original is None or published is None:
            continue
        clean, protected = upright_rgb(original), upright_rgb(published)
        if clean is not None and protected is not None and clean.shape == protected.shape:
            yield PhotoPair(row.key, clean, protected)


def _published_rows(table: ProtectedTable, drop: str, wanted: set[str]) -> Iterator[tuple[_PublishedRow, bytes | None]]:
    """Yields the rows of some photos, with the photo where the table holds it."""
    for path in sorted(table.live_files(drop)):
        yield from find_photos(table.storage, path, _PublishedRow, wanted)

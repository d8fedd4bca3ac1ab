"""Photos as they came and as they were published: to look at, and to measure what protection does."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rid.assets.catalog.plan import DropCatalog, read_catalog
from rid.assets.catalog.rows import CatalogRows
from rid.assets.catalog.sources import read_original
from rid.assets.protection.shards.carried_rows import image_bytes
from rid.models.upright_photos import upright_rgb
from rid.resources.catalogs import open_parquet
from rid.resources.commits import ProtectedTable
from rid.resources.storage import Storage


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
    for row in _published_rows(table, drop, wanted):
        original = read_original(originals.row(row["key"]))
        published = target.read_bytes(row["output_path"]) if row["output_path"] else image_bytes(row)
        if original is None or published is None:
            continue
        clean, protected = upright_rgb(original), upright_rgb(published)
        if clean is not None and protected is not None and clean.shape == protected.shape:
            yield PhotoPair(row["key"], clean, protected)


def _published_rows(table: ProtectedTable, drop: str, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of some photos; only row groups that hold one are read whole."""
    for path in sorted(table.live_files(drop)):
        with table.storage.open(path) as file:
            parquet = open_parquet(file)
            columns = [
                name for name in ("key", "output_path", "image", "content") if name in parquet.schema_arrow.names
            ]
            for group in range(parquet.metadata.num_row_groups):
                keys = parquet.read_row_group(group, columns=["key"], use_threads=False).column("key").to_pylist()
                if wanted.isdisjoint(keys):
                    continue
                rows = parquet.read_row_group(group, columns=columns, use_threads=False).to_pylist()
                yield from (row for row in rows if row["key"] in wanted)

"""The names that drops have taken in a folder target: of photos, and of XMP files beside them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rid.resources.commits import ProtectedTable
from rid.resources.records import SidecarReceipt, sidecar_receipts
from rid.resources.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _NamedRow:
    """The part of a receipt that names files of a folder target."""

    output_path: str | None
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


def published_names(table: ProtectedTable, drop: str) -> list[str]:
    """Names that a drop has published."""
    rows = list(table.iter_records(drop, _NamedRow))
    photos = [row.output_path for row in rows if row.output_path is not None]
    return photos + [sidecar.path for row in rows for sidecar in row.sidecars]


def names_of_other_drops(table: ProtectedTable, drop: str) -> tuple[str, ...]:
    """Names that this drop may not use."""
    return tuple(name for other in table.drops() if other != drop for name in published_names(table, other))


def remove_unpublished(table: ProtectedTable, drop: str, folder: Storage, published: frozenset[str]) -> None:
    """Deletes files that an earlier commit of this drop published and that no receipt names any more."""
    stale = sorted(published.difference(published_names(table, drop)))
    kept = [name for name in stale if not folder.discard(name)]
    if kept:
        log.warning("%d published photos whose originals are gone may not be deleted here: see rid verify", len(kept))

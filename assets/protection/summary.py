"""Numbers of a run over a drop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DropSummary:
    """The result of a run.

    Attributes:
        drop: its name.
        photos: rows of the drop.
        protected: photos that are published protected.
        skipped: photos that are published unchanged, since they are protected already.
        sidecars: XMP files that went along with photos.
        quarantined: photos that are held back, by reason.
        ignored: files of the source that are no photos.
        shards: shards of the drop.
        shards_written: shards that this run wrote.
        photos_computed: photos that this run protected.
        bytes_in: of the drop.
        seconds: this run took.
        version: of the table; -1 if it has none.
        committed: whether this run committed anything.
        defender_digest: the defender.
        catalog_url: the catalog.
    """

    drop: str
    photos: int
    protected: int
    skipped: int
    sidecars: int
    quarantined: dict[str, int] = field(hash=False)
    ignored: int
    shards: int
    shards_written: int
    photos_computed: int
    bytes_in: int
    seconds: float
    version: int
    committed: bool
    defender_digest: str
    catalog_url: str


def to_json(summary: DropSummary) -> dict[str, Any]:
    """Returns a summary as JSON values."""
    return asdict(summary)

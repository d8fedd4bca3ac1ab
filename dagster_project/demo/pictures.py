"""The demo's picture: one photo as it came, protected, and the change amplified."""

from __future__ import annotations

from pathlib import Path

from rid.assets.reports.pairs import PhotoPair
from rid.assets.reports.pictures import jpeg, strip
from rid.models.upright_photos import upright_rgb

TILE = 360


def write_strip(clean: Path, protected: Path, budget_levels: int, target: Path) -> None:
    """Writes the strip of one photo; an equal one that is there already stays as it is.

    Raises:
        ValueError: if one of the two files cannot be decoded.
    """
    before, after = upright_rgb(clean.read_bytes()), upright_rgb(protected.read_bytes())
    if before is None or after is None:
        raise ValueError(f"{clean} or {protected} cannot be decoded")
    data = jpeg(strip(PhotoPair(clean.name, before, after), budget_levels, TILE))
    if not target.exists() or target.read_bytes() != data:
        target.write_bytes(data)

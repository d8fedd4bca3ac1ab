"""Small catalogs of real photos for tests, and requests to protect them with the tiny defender."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tiny_defender import write_tiny_defender

from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import run_drop
from rid.assets.protection.summary import DropSummary
from rid.assets.protection.targets import Target
from rid.models.policy import ProtectionPolicy
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage

HERE = WorkerSettings(n_workers=0)  # tasks run in this process


def photo_bytes(seed: int, kind: str = "JPEG", side: int = 80) -> bytes:
    """A smooth coloured picture, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 196, size=(5, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((side, side - 8), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return buffer.getvalue()


def write_photos(url: str | Path, count: int, *, first: int = 0, kind: str = "JPEG") -> None:
    """Writes photos p000.jpg (or .png) and so on, the odd ones into a folder."""
    storage = Storage(str(url))
    suffix = {"JPEG": "jpg", "PNG": "png"}[kind]
    for i in range(first, first + count):
        folder = "odd/" if i % 2 else ""
        storage.write_bytes(f"{folder}p{i:03d}.{suffix}", photo_bytes(i, kind))


def write_parquet(path: Path, count: int, *, first: int = 0, row_group: int = 8) -> pa.Table:
    """Writes a Hugging Face style Parquet file with two pass-through columns, and returns it."""
    rows = range(first, first + count)
    table = pa.table(
        {
            "image": pa.array([{"bytes": photo_bytes(i), "path": f"p{i:03d}.jpg"} for i in rows], IMAGE),
            "caption": [f"photo {i}" for i in rows],
            "label": pa.array([i % 3 for i in rows], pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return table


def request_for(source: str | Path, target: str | Path, defender: Path, **changes: Any) -> ProtectionRequest:
    """A request as `rid protect` builds it; `defender` is a folder that is written if it is not there."""
    if not (defender / "config.json").is_file():
        write_tiny_defender(defender)
    entry = DefenderRegistry(Storage(str(defender.parent / "home")), defender.parent / "none").resolve(str(defender))
    kind = changes.pop("target_kind", "files")
    fields = {
        "source": Storage(str(source)),
        "target": Target(Storage(str(target)), kind),
        "drop": "d1",
        "defender": entry,
        "policy": ProtectionPolicy(),
        "budget_levels": 6,
    }
    return ProtectionRequest(**(fields | changes))


def run(request: ProtectionRequest, settings: WorkerSettings = HERE) -> DropSummary:
    """Runs a request to its end."""
    with Workers(settings) as workers:
        return run_drop(request, workers)


def tree(url: str | Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of every file by path, but of those under the given prefixes."""
    storage = Storage(str(url))
    return {
        entry.path: hashlib.sha256(storage.read_bytes(entry.path)).hexdigest()
        for entry in storage.list_files()
        if not entry.path.startswith(without)
    }

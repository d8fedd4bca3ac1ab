"""Numbers of a report, read from a drop's receipts, and the sample of photos that it looks at."""

from __future__ import annotations

import csv
import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from rid.resources.commits import ProtectedTable
from rid.resources.records import Receipt, SidecarReceipt, columns_of
from rid.resources.schemas import Status

LISTED = 200  # quarantined photos that a report names; the CSV file beside it names all
COLUMNS = [name for name in columns_of(Receipt) if name != "drop"]
HIGH_IS_GOOD = ("psnr", "ssim", "survival_gain", "survival_cosine")
LOW_IS_GOOD = ("smooth_levels", "visible_share")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Spread:
    """The spread of one measure over the protected photos."""

    low: float
    median: float
    high: float
    worst: float
    values: NDArray[np.float32] = field(hash=False, repr=False)


@dataclass(frozen=True)
class DropFigures:
    """The numbers of a drop.

    Attributes:
        photos: rows.
        status: rows by status.
        reasons: rows that are not protected, by reason.
        formats: protected photos by format.
        flags: protected photos by flag.
        bytes_in: of the protected photos as they came.
        bytes_out: of the same photos, protected.
        engines: protected photos by engine.
        largest_change: largest change of a value before encoding, in levels; 0 if nothing is protected.
        measures: spread of psnr (dB), ssim, survival_gain, survival_cosine, smooth_levels and visible_share, and of a
            sample's perceptual distance, by its name; a measure that no photo has is left out.
        held_back: (name, reason, detail) of the first LISTED photos that are quarantined.
        sample: keys of a seeded sample of protected photos.
        defender_digest: what protected them; empty if nothing did.
        policy_digest: the policy.
        budget_levels: the budget.
    """

    photos: int
    status: Counter[str]
    reasons: Counter[str]
    formats: Counter[str]
    flags: Counter[str]
    engines: Counter[str]
    bytes_in: int
    bytes_out: int
    largest_change: int
    measures: dict[str, Spread]
    held_back: list[tuple[str, str, str]]
    sample: list[str]
    defender_digest: str
    policy_digest: str
    budget_levels: int


def read_figures(table: ProtectedTable, drop: str, sample: int, seed: int, rows_to: TextIO) -> DropFigures:
    """Reads the receipts of a drop once, adds them up and writes them as CSV.

    Args:
        table: of protected photos or of receipts.
        drop: its name.
        sample: number of protected photos to sample, by a hash of seed and key: it is stable as a drop grows.
        seed: of the sample.
        rows_to: where the CSV goes.
    """
    counters: dict[str, Counter[str]] = {name: Counter() for name in ("status", "reason", "format", "flag", "engine")}
    values: dict[str, list[float]] = {name: [] for name in (*HIGH_IS_GOOD, *LOW_IS_GOOD)}
    held_back: list[tuple[str, str, str]] = []
    chosen: list[tuple[int, str]] = []  # a heap of (minus the hash, key)
    photos = bytes_in = bytes_out = largest = budget = 0
    defender = policy = ""
    writer = csv.writer(rows_to)
    writer.writerow(COLUMNS)
    for row in table.iter_records(drop, Receipt):
        photos += 1
        writer.writerow([csv_cell(getattr(row, name)) for name in COLUMNS])
        counters["status"][row.status] += 1
        policy, budget = row.policy_digest, row.budget_levels
        if row.status != Status.PROTECTED:
            counters["reason"][row.reason or ""] += 1
            if row.status == Status.QUARANTINED and len(held_back) < LISTED:
                held_back.append((row.key, row.reason or "", row.detail or ""))
            continue
        defender = row.defender_digest
        counters["format"][row.format or ""] += 1
        counters["engine"][row.engine] += 1
        counters["flag"].update(row.flags)
        bytes_in, bytes_out = bytes_in + row.bytes_in, bytes_out + (row.bytes_out or 0)
        largest = max(largest, row.linf_levels or 0)
        for name, found in values.items():
            value = getattr(row, name)
            if value is not None and np.isfinite(value):
                found.append(value)
        rank = int.from_bytes(hashlib.sha256(f"{seed}\n{row.key}".encode()).digest()[:8], "big")
        heapq.heappush(chosen, (-rank, row.key))
        if len(chosen) > sample:
            heapq.heappop(chosen)
    return DropFigures(
        photos=photos,
        status=counters["status"],
        reasons=counters["reason"],
        formats=counters["format"],
        flags=counters["flag"],
        engines=counters["engine"],
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        largest_change=largest,
        measures={
            name: spread(np.array(found, np.float32), worst="most" if name in LOW_IS_GOOD else "least")
            for name, found in values.items()
            if found
        },
        held_back=held_back,
        sample=[key for _, key in sorted(chosen, reverse=True)],
        defender_digest=defender,
        policy_digest=policy,
        budget_levels=budget,
    )


def spread(values: NDArray[np.float32], *, worst: Literal["least", "most"] = "least") -> Spread:
    """Returns how a measure is spread; `worst` says which of its ends is bad."""
    low, median, high = (float(value) for value in np.percentile(values, [5, 50, 95]))
    return Spread(low, median, high, float(values.min() if worst == "least" else values.max()), values)


def csv_cell(value: Any) -> Any:
    """A value for CSV; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(value, tuple):
        return " ".join(one.path if isinstance(one, SidecarReceipt) else one for one in value)
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value

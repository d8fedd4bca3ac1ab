"""Checks of a protected drop before anything is built on it; those of lost or leaked photos block."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dagster import AssetCheckSeverity, AssetCheckSpec, PreviewWarning

from rid.assets.custody.shard_verification import Verified
from rid.assets.partitions import drops
from rid.assets.protection.failure_budget import exceeds
from rid.models.policy import ProtectionPolicy

PROTECTED_CATALOG = "protected_catalog"
ROWS, OUTPUTS, BUDGET, METADATA, QUARANTINE, LOOK = (
    "every_photo_has_a_status",
    "every_output_is_as_recorded",
    "budget_is_kept",
    "metadata_is_kept",
    "quarantine_is_within_budget",
    "look_is_within_policy",
)
REENCODING_LEVELS = 3.0  # root mean square that writing a lossy format again may add to the perturbation
NOTHING_NEW = "nothing was written in this run; `rid verify` reads everything back"
SEEN = "protection is seen in skies and on skin: a smaller budget or another defender hides it; `rid preview` shows it"
WHAT = {
    ROWS: (True, "Rows in = protected + skipped + quarantined, in the run and in the committed table."),
    OUTPUTS: (True, "Every photo that was written has its recorded sha256, read back from storage."),
    BUDGET: (True, "No value moves by more than the budget, and none of the photos is unchanged."),
    METADATA: (True, "No thumbnail of the original is published; a sample of photos has its original's metadata."),
    QUARANTINE: (False, "Quarantined photos are within the policy's failure budget; above it a run is not committed."),
    LOOK: (
        False,
        "The median photo looks no worse than a change by the whole budget in every value would make it, and "
        "protection is hardly seen in its smooth areas, such as a sky or a cheek.",
    ),
}


def check_specs() -> list[AssetCheckSpec]:
    """The checks of protected_catalog, each evaluated a drop at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            AssetCheckSpec(name, asset=PROTECTED_CATALOG, blocking=blocking, description=text, partitions_def=drops)
            for name, (blocking, text) in WHAT.items()
        ]


@dataclass(frozen=True)
class Outcome:
    """The result of one check of one drop.

    Attributes:
        check: its name.
        passed: whether it passed.
        metadata: numbers; never a photo's name.
        warning: whether a failure is only a warning.
        says: one sentence.
    """

    check: str
    passed: bool
    metadata: dict[str, Any] = field(hash=False)
    warning: bool = False
    says: str | None = None

    @property
    def severity(self) -> AssetCheckSeverity:
        """The weight of a failure."""
        return AssetCheckSeverity.WARN if self.warning else AssetCheckSeverity.ERROR

    @property
    def blocks(self) -> bool:
        """True if nothing may be built on the drop."""
        return not self.passed and not self.warning and WHAT[self.check][0]


@dataclass(frozen=True)
class DropCounts:
    """Counts of what came in and what came out of a drop.

    Attributes:
        photos: in its catalog.
        rows: in the committed table.
        outcomes: photos that ended in one of the statuses.
        quarantined: of them.
    """

    photos: int
    rows: int
    outcomes: int
    quarantined: int


def check_drop(
    counts: DropCounts, verified: Verified, policy: ProtectionPolicy, budget_levels: int
) -> Iterator[Outcome]:
    """Judges one drop.

    Args:
        counts: what came in and what came out.
        verified: what was read back of the shards that this run wrote, or of all.
        policy: the run's.
        budget_levels: the run's.
    """
    yield check_rows(counts.photos, counts.rows, counts.outcomes)
    yield check_outputs(verified)
    yield check_budget(verified)
    yield check_metadata(verified)
    yield check_quarantine(counts.photos, counts.quarantined, policy)
    yield check_look(verified, budget_levels, policy)


def check_rows(photos: int, rows: int, outcomes: int) -> Outcome:
    """Holds what came in against what came out."""
    metadata = {"photos in the catalog": photos, "rows in the table": rows, "outcomes": outcomes}
    return Outcome(ROWS, photos == rows == outcomes, metadata)


def check_outputs(verified: Verified) -> Outcome:
    """Checks that what was read back is as recorded."""
    wrong = {kind: n for kind, n in sorted(verified.findings.items()) if kind not in ("budget", "unreadable")}
    metadata = {"shards read back": verified.shards, "photos hashed": verified.published, "wrong": wrong}
    says = "run `rid verify` on the table: it names every photo that is not as recorded" if wrong else None
    return Outcome(OUTPUTS, not wrong, metadata, says=says if verified.shards else NOTHING_NEW)


def check_budget(verified: Verified) -> Outcome:
    """Checks that every photo is changed, by no more than the budget."""
    wrong = verified.findings["budget"] + verified.findings["unreadable"] + verified.over_budget
    metadata = {
        "lossless photos measured again": verified.budgets_measured,
        "recorded changes compared": len(verified.psnr),
        "outside of the budget": wrong,
    }
    return Outcome(BUDGET, not wrong, metadata, says=None if verified.shards else NOTHING_NEW)


def check_metadata(verified: Verified) -> Outcome:
    """A thumbnail leaks the original and is an error; lost metadata is a warning."""
    metadata = {
        "photos compared": verified.metadata_compared,
        "with a thumbnail": verified.leaking,
        "lost": dict(verified.metadata_lost),
    }
    passed = not verified.leaking and not verified.metadata_lost
    says = None if verified.shards else NOTHING_NEW
    return Outcome(METADATA, passed, metadata, warning=not verified.leaking, says=says)


def check_quarantine(photos: int, held: int, policy: ProtectionPolicy) -> Outcome:
    """Checks that the quarantined photos are within the failure budget."""
    over = exceeds(policy, held, photos)
    metadata = {
        "quarantined": held,
        "share": held / max(1, photos),
        "allowed share": policy.max_quarantined_share,
        "always allowed": policy.max_quarantined,
    }
    return Outcome(QUARANTINE, not over, metadata)


def check_look(verified: Verified, budget_levels: int, policy: ProtectionPolicy) -> Outcome:
    """Checks that the median PSNR is at least that of a change by the budget b everywhere, re-encoding (r) included.

    10 log10(255^2 / (b^2 + r^2)); and that the median share of smooth areas with a visible change is within the
    policy's.
    """
    if not verified.psnr:
        return Outcome(LOOK, True, {"photos": 0}, warning=True, says=NOTHING_NEW if not verified.shards else None)
    least = 10 * math.log10(255**2 / (budget_levels**2 + REENCODING_LEVELS**2))
    median, worst = (float(np.percentile(verified.psnr, share)) for share in (50, 1))
    seen = float(np.median(verified.visible_share)) if verified.visible_share else 0.0
    metadata = {
        "photos": len(verified.psnr),
        "median share of smooth areas where it is seen": round(seen, 4),
        "allowed share": policy.max_visible_share,
        "median PSNR, dB": round(median, 2),
        "PSNR of the worst hundredth, dB": round(worst, 2),
        "allowed median, dB": round(least, 2),
        "median SSIM": round(float(np.median(verified.ssim)), 4) if verified.ssim else None,
    }
    says = None if seen <= policy.max_visible_share else SEEN
    return Outcome(LOOK, median >= least and says is None, metadata, warning=True, says=says)

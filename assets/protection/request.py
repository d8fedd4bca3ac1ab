"""What to protect, with what, and where to put it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rid.assets.protection.shards.files import TargetKind
from rid.assets.protection.work_salt import work_salt
from rid.models.policy import ProtectionPolicy
from rid.resources.defender_registry import DefenderEntry
from rid.resources.schemas import Reason, check_drop_name
from rid.resources.storage import Storage


@dataclass(frozen=True)
class ProtectionRequest:
    """What to protect, with what, and where to put it.

    Attributes:
        source: folder, prefix or Parquet.
        target: where protected photos go.
        drop: the drop's name.
        target_kind: "files" or "table".
        state: where catalogs lie.
        receipts: the table of the receipts.
        defender: one defender; a run is pinned to its digest.
        policy: the policy.
        budget_levels: the budget, in 8-bit levels.
        rehash: read every photo again, even those whose listing is unchanged.
        retry: reasons of photos that were quarantined or skipped, which are tried again.
        allowed_prefixes: prefixes under which a `uri` column may name photos, beside the source's own folder or bucket.
        known: tables whose receipts bear out the marks of photos, beside the target's own.
    """

    source: str
    target: str
    drop: str
    target_kind: TargetKind
    state: str
    receipts: str
    defender: DefenderEntry
    policy: ProtectionPolicy
    budget_levels: int
    rehash: bool = False
    retry: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_drop_name(self.drop)
        reasons = {reason.value for reason in Reason}
        for reason in self.retry:
            if reason not in reasons:
                raise ValueError(f"reason {reason!r} is unknown: one of {', '.join(sorted(reasons))}")

    def salt(self) -> str:
        """What decides the output beside the photos, as part of every work key."""
        return work_salt(self.defender, self.policy, self.budget_levels, self.target_kind)


def default_drop_name(source: str) -> str:
    """A name for a source that was given none: a digest of its normalised URL."""
    return hashlib.sha256(Storage(source).url.encode()).hexdigest()[:16]

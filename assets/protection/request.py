"""The one request of `rid protect` and of the assets: what to protect, with what, and where to put it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rid.assets.catalog.picture_columns import NONE_NAMED, PictureColumns
from rid.assets.protection.options import ProtectionOptions, ProtectionSettings, protection_settings
from rid.assets.protection.targets import Target, check_apart, find_target
from rid.assets.protection.work_salt import work_salt
from rid.models.policy import ProtectionPolicy
from rid.resources.commits import ProtectedTable
from rid.resources.defender_registry import DefenderEntry
from rid.resources.rid_home import RidHome
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage


@dataclass(frozen=True)
class ProtectionRequest:
    """A request: what to protect, with what, and where to put it.

    Attributes:
        source: folder, prefix or Parquet file.
        target: where protected photos go.
        drop: the drop's name.
        defender: one defender; a run is pinned to its digest.
        policy: the policy.
        budget_levels: the budget, in 8-bit levels.
        rehash: read every photo again, even those whose listing is unchanged.
        retry: reasons of photos that were quarantined or skipped, which are tried again.
        allowed_prefixes: prefixes under which a `uri` column may name photos, beside the source's own folder or bucket.
        known: tables whose receipts bear out the marks of photos, beside the target's own.
        columns: what becomes of columns that hold pictures.
    """

    source: Storage
    target: Target
    drop: str
    defender: DefenderEntry
    policy: ProtectionPolicy
    budget_levels: int
    rehash: bool = False
    retry: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()
    known: tuple[ProtectedTable, ...] = ()
    columns: PictureColumns = NONE_NAMED

    def __post_init__(self) -> None:
        check_drop_name(self.drop)

    def salt(self) -> str:
        """Returns what decides the output beside the photos, as part of every work key."""
        beside = [name for name in self.columns.protected if name != "image"]  # that is the photo, named or not
        return work_salt(self.defender, self.policy, self.budget_levels, self.target.kind, beside)


def protection_request(
    options: ProtectionOptions,
    source: Storage,
    target: Target,
    drop: str | None,
    home: RidHome,
    settings: ProtectionSettings | None = None,
) -> ProtectionRequest:
    """Builds the request of one drop.

    Args:
        options: what was asked for.
        source: folder, prefix or Parquet file.
        target: where protected photos go.
        drop: the drop's name; None takes a digest of the source's URL.
        home: RID_HOME, whose own table is known beside the target's.
        settings: what the run is pinned to; None looks it up.

    Raises:
        NotATarget: if nothing was published at one of the known targets.
        ValueError: if source and target overlap, or the drop, the defender, the budget or the policy is not allowed.
    """
    check_apart(source, target.storage)
    pinned = settings or protection_settings(options, home)
    return ProtectionRequest(
        source=source,
        target=target,
        drop=drop or default_drop_name(source),
        defender=pinned.defender,
        policy=pinned.policy,
        budget_levels=pinned.budget_levels,
        rehash=options.rehash,
        retry=options.retry,
        allowed_prefixes=options.allowed_prefixes,
        columns=options.columns,
        known=(home.protected_table(), *(find_target(url).receipts for url in options.known)),
    )


def default_drop_name(source: Storage) -> str:
    """A name for a source that was given none: a digest of its normalised URL."""
    return hashlib.sha256(source.url.encode()).hexdigest()[:16]

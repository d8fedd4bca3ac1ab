"""The options of a protection run, wherever they are given, and what a run is pinned to by them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from rid.assets.catalog.picture_columns import PictureColumns
from rid.assets.protection.work_salt import work_salt
from rid.models.policy import ProtectionPolicy
from rid.resources.defender_registry import DEFAULT_ALIAS, DefenderEntry
from rid.resources.rid_home import POLICY, RidHome
from rid.resources.schemas import Reason


@dataclass(frozen=True)
class ProtectionOptions:
    """Every option of a run; `rid protect` fills it from the command line, the assets from their configuration.

    What is given first in this list decides:

    1. an option of its own, such as `budget_levels`;
    2. `policy`: `--policy FILE` or `policy_json` of a run's configuration;
    3. `policy.json` under RID_HOME;
    4. the defaults of the policy, and of the budget those of the defender.

    A policy counts as a whole: one that is given replaces `policy.json`, and its missing fields are the defaults.

    Attributes:
        defender: alias, digest or path of a defender.
        budget_levels: largest change of a value, 1 to 16 of 255 levels; None takes the policy's.
        policy: the protection policy; None takes `policy.json` under RID_HOME, if it is there.
        rehash: read every photo again, even those whose listing is unchanged.
        retry: reasons of photos that were quarantined or skipped, which are tried again.
        trust_marks: skip photos whose mark fits their pixels, known or not; False leaves that to the policy.
        known: targets of other runs whose photos count as known, beside this target's and RID_HOME's.
        allowed_prefixes: prefixes under which a `uri` column may name photos, beside the source's own folder or bucket.
        image_columns: columns of Parquet whose pictures are protected with the row's photo.
        pass_columns: columns of Parquet that hold pictures and are published as they are.
    """

    defender: str = DEFAULT_ALIAS
    budget_levels: int | None = None
    policy: ProtectionPolicy | None = None
    rehash: bool = False
    retry: tuple[str, ...] = ()
    trust_marks: bool = False
    known: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()
    image_columns: tuple[str, ...] = ()
    pass_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        reasons = {reason.value for reason in Reason}
        for reason in self.retry:
            if reason not in reasons:
                raise ValueError(f"reason {reason!r} is unknown: one of {', '.join(sorted(reasons))}")
        _ = self.columns

    @property
    def columns(self) -> PictureColumns:
        """The columns that hold pictures, and what becomes of them.

        Raises:
            ValueError: if one is named twice.
        """
        return PictureColumns(self.image_columns, self.pass_columns)


@dataclass(frozen=True)
class ProtectionSettings:
    """Choices that a run is pinned to, whatever is promoted while it goes on.

    Attributes:
        defender: one defender.
        policy: the policy.
        budget_levels: the budget, in 8-bit levels.
        policy_version: digest of the policy with the budget that the run asked for.
    """

    defender: DefenderEntry
    policy: ProtectionPolicy
    budget_levels: int
    policy_version: str

    def version(self) -> str:
        """Short digest of what decides a table's photos beside their originals."""
        salt = work_salt(self.defender, self.policy, self.budget_levels, "table")
        return hashlib.sha256(salt.encode()).hexdigest()[:12]


def protection_settings(options: ProtectionOptions, home: RidHome) -> ProtectionSettings:
    """Looks the defender and the policy up once.

    Raises:
        ValueError: if the defender, the budget or the policy is not allowed.
    """
    policy = options.policy or home_policy(home)
    policy = replace(policy, trust_marks=policy.trust_marks or options.trust_marks)
    wanted = options.budget_levels if options.budget_levels is not None else policy.budget_levels
    defender = home.registry().resolve(options.defender)
    return ProtectionSettings(
        defender=defender,
        policy=policy,
        budget_levels=defender.budget(wanted),
        policy_version=replace(policy, budget_levels=wanted).digest(),
    )


def home_policy(home: RidHome) -> ProtectionPolicy:
    """The policy of a deployment: `policy.json` under RID_HOME, or the default one.

    Raises:
        ValueError: naming the file, if it holds no policy.
    """
    text = home.policy_json()
    if text is None:
        return ProtectionPolicy()
    try:
        return ProtectionPolicy.from_json(text)
    except ValueError as error:
        raise ValueError(f"{home.storage.uri(POLICY)}: {error}") from error

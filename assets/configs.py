"""From a run's configuration to a protection request: what the protection assets share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from dagster import Config
from pydantic import Field

from rid.assets.catalog.plan import state_url
from rid.assets.custody.verification import target_table
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.work_salt import work_salt
from rid.models.policy import ProtectionPolicy
from rid.resources.defender_registry import DEFAULT_ALIAS, DefenderEntry
from rid.resources.places import Places


class ProtectionConfig(Config):
    """How a drop is protected."""

    defender: str = Field(default=DEFAULT_ALIAS, description="Alias, digest or path of a defender.")
    budget_levels: int | None = Field(
        default=None, description="Largest change of a value, 1-16 of 255 levels; empty takes the policy's."
    )
    policy_json: str = Field(
        default="", description="A protection policy, as JSON; empty takes policy.json under RID_HOME, if it is there."
    )
    rehash: bool = Field(default=False, description="Read every photo again, even if its listing is unchanged.")
    allow_uris: list[str] = Field(
        default=[],
        description="Prefixes under which a `uri` column may name photos, beside the source's own folder or bucket.",
    )
    retry: list[str] = Field(default=[], description="Reasons whose photos, held back or skipped, are tried again.")
    trust_marks: bool = Field(
        default=False, description="Skip photos whose mark of protection fits their pixels, known or not."
    )
    known: list[str] = Field(
        default=[], description="Targets of other runs whose photos count as known, beside this deployment's table."
    )


@dataclass(frozen=True)
class ProtectionSettings:
    """What a run is pinned to, whatever is promoted while it goes on.

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


def protection_settings(config: ProtectionConfig, places: Places) -> ProtectionSettings:
    """Looks the defender and the policy up once.

    Raises:
        ValueError: if the defender, the budget or the policy is not allowed.
    """
    policy = ProtectionPolicy.from_json(config.policy_json or places.policy_json())
    policy = replace(policy, trust_marks=policy.trust_marks or config.trust_marks)
    wanted = config.budget_levels if config.budget_levels is not None else policy.budget_levels
    defender = places.registry().resolve(config.defender)
    return ProtectionSettings(
        defender=defender,
        policy=policy,
        budget_levels=defender.budget(wanted),
        policy_version=replace(policy, budget_levels=wanted).digest(),
    )


def protection_request(
    drop: str, config: ProtectionConfig, places: Places, settings: ProtectionSettings | None = None
) -> ProtectionRequest:
    """Returns the request of one drop.

    Args:
        drop: its name.
        config: the run's configuration.
        places: where things are.
        settings: what the run is pinned to; None looks it up.

    Raises:
        ValueError: if the drop, the defender, the budget or the policy is not allowed, or a known target is none.
        FileNotFoundError: if there is no such drop.
    """
    pinned = settings or protection_settings(config, places)
    table = places.protected_table()
    return ProtectionRequest(
        source=places.drop_source(drop),
        target=table,
        drop=drop,
        target_kind="table",
        state=state_url(table),
        receipts=table,
        defender=pinned.defender,
        policy=pinned.policy,
        budget_levels=pinned.budget_levels,
        rehash=config.rehash,
        retry=tuple(config.retry),
        allowed_prefixes=tuple(config.allow_uris),
        known=tuple(target_table(target)[0].url for target in config.known),
    )

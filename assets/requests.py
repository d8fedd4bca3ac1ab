"""From a partition and a run's configuration to a protection request: shared by the protection assets."""

from __future__ import annotations

from dagster import Config
from pydantic import Field

from assets.drop_plan import state_url
from assets.drop_run import ProtectionRequest
from models.policy import ProtectionPolicy
from resources.places import Places


class ProtectionConfig(Config):
    """How a drop is protected."""

    defender: str = Field(default="default", description="Alias, digest or path of a defender.")
    budget_levels: int | None = Field(default=None, description="Largest change of a value, 1-16 of 255 levels.")
    policy_json: str = Field(default="{}", description="A protection policy, as JSON.")
    rehash: bool = Field(default=False, description="Read every photo again, even if its listing is unchanged.")
    allow_uris: list[str] = Field(
        default=[],
        description="Prefixes under which a `uri` column may name photos, beside the source's own folder or bucket.",
    )
    retry: list[str] = Field(default=[], description="Quarantine reasons whose photos are tried again.")


def protection_request(drop: str, config: ProtectionConfig, places: Places) -> ProtectionRequest:
    """Pins a run to one defender.

    Raises:
        ValueError: if the drop, the defender, the budget or the policy is not allowed.
    """
    policy = ProtectionPolicy.from_json(config.policy_json)
    entry = places.registry().resolve(config.defender)
    table = places.protected_table()
    return ProtectionRequest(
        source=places.drop_source(drop),
        target=table,
        drop=drop,
        target_kind="table",
        state=state_url(table),
        receipts=table,
        defender=entry,
        policy=policy,
        budget_levels=entry.budget(config.budget_levels if config.budget_levels is not None else policy.budget_levels),
        rehash=config.rehash,
        retry=tuple(config.retry),
        uris=tuple(config.allow_uris),
    )

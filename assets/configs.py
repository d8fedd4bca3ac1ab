"""From a run's configuration to a protection request: what the protection assets share."""

from __future__ import annotations

from dagster import Config
from pydantic import Field

from rid.assets.protection.options import ProtectionOptions, ProtectionSettings
from rid.assets.protection.request import ProtectionRequest, protection_request
from rid.assets.protection.targets import Target
from rid.models.policy import ProtectionPolicy
from rid.resources.defender_registry import DEFAULT_ALIAS
from rid.resources.places import Places


class ProtectionConfig(Config):
    """`ProtectionOptions` as the launchpad shows them."""

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

    image_columns: list[str] = Field(
        default=[], description="Columns of Parquet whose pictures are protected with the row's photo."
    )
    pass_columns: list[str] = Field(
        default=[], description="Columns of Parquet that hold pictures and are published as they are."
    )

    def options(self) -> ProtectionOptions:
        """The same options as `rid protect` has them.

        Raises:
            ValueError: if the policy is none, or a reason is unknown.
        """
        return ProtectionOptions(
            defender=self.defender,
            budget_levels=self.budget_levels,
            policy=ProtectionPolicy.from_json(self.policy_json) if self.policy_json else None,
            rehash=self.rehash,
            retry=tuple(self.retry),
            trust_marks=self.trust_marks,
            known=tuple(self.known),
            allowed_prefixes=tuple(self.allow_uris),
            image_columns=tuple(self.image_columns),
            pass_columns=tuple(self.pass_columns),
        )


def drop_request(
    drop: str, config: ProtectionConfig, places: Places, settings: ProtectionSettings | None = None
) -> ProtectionRequest:
    """Returns the request of one drop of the deployment.

    Args:
        drop: its name.
        config: the run's configuration.
        places: where things are.
        settings: what the run is pinned to; None looks it up.

    Raises:
        ValueError: if the drop, the defender, the budget or the policy is not allowed, or a known target is none.
        FileNotFoundError: if there is no such drop.
    """
    home = places.rid_home()
    target = Target(home.protected_table().storage, "table")
    return protection_request(config.options(), places.drop_source(drop), target, drop, home, settings)

"""The promoted defender and the policy, which decide how photos are protected. When one changes, drops are outdated."""

from collections.abc import Iterator

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    AssetSpec,
    DagsterInstance,
    DataVersion,
    ObserveResult,
    multi_observable_source_asset,
)

from rid.assets.events import DATA_VERSION
from rid.assets.operations import PROTECTION_OWNERS
from rid.assets.protection.options import ProtectionOptions, ProtectionSettings, protection_settings
from rid.resources.places import Places

PROMOTED_DEFENDER, PROTECTION_POLICY = "promoted_defender", "protection_policy"

SPECS = [
    AssetSpec(
        PROMOTED_DEFENDER,
        group_name="protection",
        kinds={"onnx"},
        owners=PROTECTION_OWNERS,
        description="The defender that the alias `default` names. `rid defenders promote` changes it, and drops that "
        "another one protected are stale from then on.",
    ),
    AssetSpec(
        PROTECTION_POLICY,
        group_name="protection",
        kinds={"json"},
        owners=PROTECTION_OWNERS,
        description="`policy.json` under RID_HOME, or the default policy. A field that decides bytes makes every drop "
        "stale when it changes.",
    ),
]


@multi_observable_source_asset(specs=SPECS, can_subset=True)  # type: ignore[untyped-decorator]
def protection_inputs(context: AssetExecutionContext, places: Places) -> Iterator[ObserveResult]:
    """Observes what is promoted now."""
    settings = protection_settings(ProtectionOptions(), places.rid_home())
    for name, version in versions(settings).items():
        if AssetKey(name) in context.selected_asset_keys:
            yield ObserveResult(asset_key=name, data_version=DataVersion(version), metadata=described(settings)[name])


def versions(settings: ProtectionSettings) -> dict[str, str]:
    """The data version of each input."""
    return {PROMOTED_DEFENDER: settings.defender.digest, PROTECTION_POLICY: settings.policy_version}


def described(settings: ProtectionSettings) -> dict[str, dict[str, str | int]]:
    """Metadata of each input for the UI."""
    defender = settings.defender
    return {
        PROMOTED_DEFENDER: {
            "name": defender.name,
            "digest": defender.digest,
            "licence": str(defender.config["licence"]),
            "budgets": defender.budgets,
            "location": defender.location,
        },
        PROTECTION_POLICY: {"policy": settings.policy.to_json(), "budget, levels": settings.budget_levels},
    }


def observations(settings: ProtectionSettings, instance: DagsterInstance) -> list[AssetObservation]:
    """Observations of the inputs whose version is not the one that was observed last."""
    found = []
    for name, version in versions(settings).items():
        records = instance.fetch_observations(AssetKey(name), limit=1).records
        last = (records[0].event_log_entry.tags if records else None) or {}
        if last.get(DATA_VERSION) != version:
            found.append(AssetObservation(name, metadata=described(settings)[name], tags={DATA_VERSION: version}))
    return found

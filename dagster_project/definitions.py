"""Everything that Dagster loads."""

import os
from datetime import timedelta

from dagster import AssetsDefinition, AssetSpec, Definitions, FreshnessPolicy, definitions

from rid.assets.defender import defender
from rid.assets.defender_onnx import defender_onnx
from rid.assets.drop_chain import drop_chain
from rid.assets.personalization_study import personalization_study
from rid.assets.protection_inputs import protection_inputs
from rid.assets.teacher_perturbations import teacher_perturbations
from rid.dagster_project.automation import outdated_schedule, sensors
from rid.dagster_project.deployments import deployment
from rid.dagster_project.jobs import JOBS

ASSETS: list[AssetsDefinition] = [
    protection_inputs,
    drop_chain,
    teacher_perturbations,
    defender,
    defender_onnx,
    personalization_study,
]
ARRIVING = ("photo_catalog", "protected_catalog")  # what is late when no drop arrives any more


@definitions
def defs() -> Definitions:
    """Reads the environment when a code location is loaded, not when this module is imported."""
    here = deployment(os.environ)
    return Definitions(
        assets=[asset.map_asset_specs(lambda spec: with_freshness(spec, here.fresh_hours)) for asset in ASSETS],
        jobs=JOBS,
        sensors=sensors(here),
        schedules=[outdated_schedule(here)],
        resources={"places": here.places, "dask": here.dask},
    )


def with_freshness(spec: AssetSpec, hours: float) -> AssetSpec:
    """Gives the assets of arriving drops a limit of age; it warns at half of it."""
    if not hours or spec.key.to_user_string() not in ARRIVING:
        return spec
    policy = FreshnessPolicy.time_window(fail_window=timedelta(hours=hours), warn_window=timedelta(hours=hours / 2))
    return spec.replace_attributes(freshness_policy=policy)

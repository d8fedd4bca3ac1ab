"""Everything that Dagster loads."""

import os

from dagster import (
    Definitions,
    define_asset_job,
    definitions,
    load_asset_checks_from_modules,
    load_assets_from_modules,
)

from assets import (
    checks,
    defender,
    defender_onnx,
    photo_catalog,
    protected_catalog,
    protection_report,
    teacher_perturbations,
)
from dagster_project.settings import WEIGHTS, rid_home
from resources.dask_cluster import DaskCluster
from resources.places import Places

ASSETS = [photo_catalog, teacher_perturbations, defender, defender_onnx, protected_catalog, protection_report]

protect_drop = define_asset_job(
    "protect_drop",
    selection=["photo_catalog", "protected_catalog", "protection_report"],
    description="Catalogues, protects and reports on a drop; a finished one costs one listing.",
)
train_defender = define_asset_job(
    "train_defender",
    selection=["defender", "defender_onnx"],
    description="Trains a defender on a configured list of drops and registers it; it is used once it is promoted.",
)


@definitions
def defs() -> Definitions:
    """Reads the environment when a code location is loaded, not when this module is imported."""
    return Definitions(
        assets=load_assets_from_modules(ASSETS),
        asset_checks=load_asset_checks_from_modules([checks]),
        jobs=[protect_drop, train_defender],
        resources={
            "places": Places(home=rid_home(), source=os.environ.get("RID_SOURCE", ""), weights=str(WEIGHTS)),
            "dask": DaskCluster(scheduler=os.environ.get("RID_SCHEDULER") or None),
        },
    )

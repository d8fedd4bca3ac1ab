"""The jobs that an operator runs."""

from __future__ import annotations

from dagster import define_asset_job, in_process_executor

from rid.assets.checks import PROTECTED_CATALOG
from rid.assets.photo_catalog import PHOTO_CATALOG
from rid.assets.protection_report import PROTECTION_REPORT

protect_drop = define_asset_job(
    "protect_drop",
    selection=[PHOTO_CATALOG, PROTECTED_CATALOG, PROTECTION_REPORT],
    executor_def=in_process_executor,  # one step, whose work is on Dask
    description="Catalogues, protects, checks and reports on drops; a finished drop costs one listing.",
)
train_defender = define_asset_job(
    "train_defender",
    selection=["defender", "defender_onnx"],
    description="Trains a defender on a configured list of drops and registers it; it is used once it is promoted.",
)
observe_inputs = define_asset_job(
    "observe_inputs",
    selection=["promoted_defender", "protection_policy"],
    executor_def=in_process_executor,
    description="Looks which defender is promoted and which policy holds; drops made with others are stale then.",
)
study = define_asset_job(
    "study",
    selection=["personalization_study"],
    description="Attacks people with and without protection and reports what was learned of them, with intervals.",
)
JOBS = [protect_drop, train_defender, observe_inputs, study]

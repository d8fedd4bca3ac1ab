"""Everything that Dagster loads."""

import os

from dagster import Definitions, define_asset_job, load_asset_checks_from_modules, load_assets_from_modules

from assets import checks, photo_catalog, protected_catalog
from dagster_project.settings import WEIGHTS, rid_home
from resources.dask_cluster import DaskCluster
from resources.places import Places

protect_drop = define_asset_job(
    "protect_drop",
    selection=["photo_catalog", "protected_catalog"],
    description="Catalogues and protects a drop; a finished one costs one listing.",
)

defs = Definitions(
    assets=load_assets_from_modules([photo_catalog, protected_catalog]),
    asset_checks=load_asset_checks_from_modules([checks]),
    jobs=[protect_drop],
    resources={
        "places": Places(home=rid_home(), source=os.environ.get("RID_SOURCE", ""), weights=str(WEIGHTS)),
        "dask": DaskCluster(scheduler=os.environ.get("RID_SCHEDULER") or None),
    },
)

"""`rid drops`: the drops that Dagster knows, as dynamic partitions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest

if TYPE_CHECKING:
    from dagster import DagsterInstance


def _instance() -> DagsterInstance:
    from dagster import DagsterInstance

    if not os.environ.get("DAGSTER_HOME"):
        raise InvalidRequest("DAGSTER_HOME is not set: set it to the folder of your Dagster instance")
    return DagsterInstance.get()


def list_drops() -> int:
    """Prints the names, one a line."""
    from rid.assets.partitions import DROPS

    with _instance() as instance:
        for name in instance.get_dynamic_partitions(DROPS):
            print(name)
    return exit_codes.OK


def add_drop(name: str) -> int:
    """Adds a name; one that is there already is fine."""
    from rid.assets.partitions import DROPS
    from rid.resources.schemas import check_drop_name

    check_drop_name(name)
    with _instance() as instance:
        instance.add_dynamic_partitions(DROPS, [name])
    print(f"drop {name} is known")
    return exit_codes.OK

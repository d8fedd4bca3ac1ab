"""The drops that exist, those that are outdated, and the runs that protect some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus, RunRequest, RunsFilter

from rid.assets.checks import PROTECTED_CATALOG
from rid.assets.events import DATA_VERSION
from rid.assets.partitions import DROPS
from rid.assets.photo_catalog import PHOTO_CATALOG
from rid.assets.protected_catalog import expected_version
from rid.assets.protection_report import PROTECTION_REPORT as REPORT
from rid.assets.protection_report import report_version

if TYPE_CHECKING:
    from rid.assets.protection.options import ProtectionSettings

FIRST, LAST, ONE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end", "dagster/partition"
UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
]


def run_requests(names: Iterable[str], order: Sequence[str], largest: int) -> list[RunRequest]:
    """One run for each stretch of neighbouring drops.

    Args:
        names: the drops to protect.
        order: all drops, in the order of their partitions.
        largest: drops of one run, at most.
    """
    wanted = set(names)
    stretches: list[list[str]] = []
    previous = -2
    for position, name in enumerate(order):
        if name not in wanted:
            continue
        if position != previous + 1 or len(stretches[-1]) == largest:
            stretches.append([])
        stretches[-1].append(name)
        previous = position
    return [_request(stretch) for stretch in stretches]


def _request(names: list[str]) -> RunRequest:
    if len(names) == 1:
        return RunRequest(partition_key=names[0])
    return RunRequest(tags={FIRST: names[0], LAST: names[-1]})


def outdated_drops(instance: DagsterInstance, settings: ProtectionSettings) -> list[str]:
    """Drops that are not protected as they are by the promoted defender under the policy, or not reported on.

    Three queries, however many drops there are. A drop that a run is working on is left out.
    """
    names = instance.get_dynamic_partitions(DROPS)
    catalogs, tables, reports = (_versions(instance, name) for name in (PHOTO_CATALOG, PROTECTED_CATALOG, REPORT))
    busy = busy_drops(instance, names)

    def done(name: str) -> bool:
        catalog, table, report = (found.get(name, "") for found in (catalogs, tables, reports))
        wanted = expected_version(settings, catalog)
        return bool(catalog) and table.startswith(wanted) and report.startswith(report_version(table))

    return [name for name in names if name not in busy and not done(name)]


def busy_drops(instance: DagsterInstance, order: Sequence[str]) -> set[str]:
    """Drops of runs that are not finished."""
    positions = {name: i for i, name in enumerate(order)}
    busy: set[str] = set()
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        first, last = run.tags.get(FIRST, run.tags.get(ONE)), run.tags.get(LAST, run.tags.get(ONE))
        if first in positions and last in positions:
            busy.update(order[positions[first] : positions[last] + 1])
    return busy


def _versions(instance: DagsterInstance, asset: str) -> dict[str, str]:
    """The data version of each drop's last materialisation."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        AssetKey(asset), DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
    )
    return {drop: found[DATA_VERSION] for drop, found in tags.items() if DATA_VERSION in found}

"""Events that tell Dagster what was made of a drop, in a run over one drop or over many.

A run over one drop yields Dagster's own results. In a run over many, those would speak for every drop of the run at
its end: instead each drop gets its materialisation when it is done, with data versions of its own, and a drop that
failed gets none. So a failed drop can be retried alone, and one that is done stays done if the run is killed.

A drop is stale if what it was made of changed: its catalog, the promoted defender, the policy, or the code. Dagster
finds that out from the versions that are recorded here with each materialisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterEventType,
    DataVersion,
    EventLogRecord,
    MaterializeResult,
)

from rid.assets.checks import PROTECTED_CATALOG, WHAT, Outcome

# Dagster's tags of an event, which it reads to tell what is stale.
DATA_VERSION, CODE_VERSION = "dagster/data_version", "dagster/code_version"
INPUT_VERSION, INPUT_POINTER = "dagster/input_data_version", "dagster/input_event_pointer"
USER_PROVIDED = "dagster/data_version_is_user_provided"
NO_POINTER = "NULL"

Event = AssetMaterialization | AssetCheckEvaluation | AssetCheckResult | MaterializeResult[Any]


@dataclass(frozen=True)
class Made:
    """One asset of one drop that is done.

    Attributes:
        asset: its key.
        version: digest of its content.
        inputs: version of each asset that it was made of.
        metadata: what the UI shows.
        outcomes: results of its checks.
    """

    asset: str
    version: str
    inputs: Mapping[str, str]
    metadata: Mapping[str, Any] = field(hash=False)
    outcomes: tuple[Outcome, ...] = ()


class DropEvents:
    """Turns what was made into events of the run."""

    def __init__(self, context: AssetExecutionContext) -> None:
        self._context = context
        self._alone = context.has_partition_key

    def finished(self, asset: str) -> set[str]:
        """Drops whose asset this run has made already, in an attempt before this one."""
        if self._context.retry_number == 0:
            return set()
        records = self._context.instance.get_records_for_run(
            self._context.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
        ).records
        events = [record.event_log_entry.dagster_event for record in records]
        return {
            event.partition
            for event in events
            if event is not None and event.asset_key == AssetKey(asset) and event.partition is not None
        }

    def last_version(self, asset: str, drop: str) -> str:
        """The recorded version of a drop's asset that is not made in this run; "" if there is none."""
        record = self._last(asset, drop)
        return str((record.event_log_entry.tags or {}).get(DATA_VERSION, "")) if record is not None else ""

    def made(self, drop: str, made: Made) -> Iterator[Event]:
        """Yields the events of one asset of one drop."""
        tags = self._tags(drop, made)
        if self._alone:
            yield MaterializeResult(
                asset_key=made.asset,
                metadata=dict(made.metadata),
                data_version=DataVersion(made.version),
                tags=tags,
                check_results=[_result(outcome) for outcome in made.outcomes if self._wanted(outcome)],
            )
            return
        yield AssetMaterialization(
            made.asset,
            partition=drop,
            metadata=dict(made.metadata),
            tags=tags | {DATA_VERSION: made.version, USER_PROVIDED: "true"},
        )
        for outcome in made.outcomes:
            yield from self.checked(drop, outcome)

    def checked(self, drop: str, outcome: Outcome) -> Iterator[Event]:
        """Yields the result of a check that goes with no materialisation."""
        if not self._wanted(outcome):
            return
        if self._alone:
            yield _result(outcome)
            return
        yield AssetCheckEvaluation(
            asset_key=AssetKey(PROTECTED_CATALOG),
            check_name=outcome.check,
            passed=outcome.passed,
            metadata=outcome.metadata,
            severity=outcome.severity,
            description=outcome.says,
            blocking=WHAT[outcome.check][0],
            partition=drop,
        )

    def _wanted(self, outcome: Outcome) -> bool:
        return any(key.name == outcome.check for key in self._context.selected_asset_check_keys)

    def _tags(self, drop: str, made: Made) -> dict[str, str]:
        specs = self._context.assets_def.specs_by_key
        tags = {CODE_VERSION: str(specs[AssetKey(made.asset)].code_version)}
        for name, version in made.inputs.items():
            partitioned = AssetKey(name) in specs
            tags[f"{INPUT_VERSION}/{name}"] = version
            tags[f"{INPUT_POINTER}/{name}"] = self._pointer(name, drop) if partitioned else NO_POINTER
        return tags

    def _pointer(self, asset: str, drop: str) -> str:
        """The event of the drop's asset that this one was made of."""
        record = self._last(asset, drop)
        return str(record.storage_id) if record is not None else NO_POINTER

    def _last(self, asset: str, drop: str) -> EventLogRecord | None:
        wanted = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=[drop])
        return next(iter(self._context.instance.fetch_materializations(wanted, limit=1).records), None)


def _result(outcome: Outcome) -> AssetCheckResult:
    return AssetCheckResult(
        asset_key=PROTECTED_CATALOG,
        check_name=outcome.check,
        passed=outcome.passed,
        metadata=outcome.metadata,
        severity=outcome.severity,
        description=outcome.says,
    )

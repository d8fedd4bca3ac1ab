"""Makes photo_catalog, protected_catalog and protection_report, drop by drop, in one step.

One step, because a run may cover many drops and a drop that fails must not stop the others: each goes through all
three assets before the next begins, and only those that failed are missing when the run ends. The workers are started
once for all of them.
"""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    BackfillPolicy,
    Failure,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
    multi_asset,
)
from pydantic import Field

from rid.assets import photo_catalog, protected_catalog, protection_report
from rid.assets.catalog.plan import DropCatalog
from rid.assets.checks import PROTECTED_CATALOG, Outcome, check_quarantine, check_specs
from rid.assets.configs import ProtectionConfig, drop_request
from rid.assets.events import DropEvents, Event, Made
from rid.assets.operations import RETRIES, STORAGE_POOL
from rid.assets.photo_catalog import PHOTO_CATALOG, make_photo_catalog
from rid.assets.protected_catalog import check_protected_catalog, make_protected_catalog
from rid.assets.protection.failure_budget import FailureBudgetExceeded
from rid.assets.protection.options import ProtectionOptions, protection_settings
from rid.assets.protection_inputs import observations
from rid.assets.protection_report import PROTECTION_REPORT, ReportConfig, make_protection_report
from rid.resources.bounded_run import is_transient
from rid.resources.commits import ConflictingCommit
from rid.resources.dask_cluster import DaskCluster
from rid.resources.dask_workers import Workers
from rid.resources.defender_files import DefenderCorrupt
from rid.resources.places import Places
from rid.resources.s3_objects import CredentialsRefusedError
from rid.resources.scheduler_state import WorkersUnavailable
from rid.resources.worker_versions import WrongWorkerVersion

# What no single drop can cause: another drop would only fail the same way.
OF_THE_RUN = (WorkersUnavailable, WrongWorkerVersion, DefenderCorrupt, CredentialsRefusedError)
NAMED = 5  # failed drops whose reasons are in the message; the table beside it has all
FAILED_DROPS = "failed drops"  # metadata of a failure


class DropConfig(ProtectionConfig):
    """Settings of a run: how drops are protected and reported on."""

    recheck: bool = Field(default=False, description="Read every published photo back, also what was there before.")
    report: ReportConfig = Field(default=ReportConfig(), description="What the report measures and shows.")


class BlockedByCheck(RuntimeError):
    """A check found that photos could be lost or leak: nothing is built on the drop."""


@multi_asset(
    name="drop_chain",
    specs=[photo_catalog.SPEC, protected_catalog.SPEC, protection_report.SPEC],
    check_specs=check_specs(),
    can_subset=True,
    backfill_policy=BackfillPolicy.single_run(),
    retry_policy=RETRIES,
    pool=STORAGE_POOL,
)
def drop_chain(
    context: AssetExecutionContext, config: DropConfig, places: Places, dask: DaskCluster
) -> Iterator[Event | Any]:
    """Takes each drop of the run through the selected assets; a finished drop costs one listing."""
    chain = DropChain(context, config, places)
    yield from observations(protection_settings(ProtectionOptions(), places.rid_home()), context.instance)
    with dask.connect() as workers:
        for drop in chain.drops:
            yield from chain.drop(drop, workers)
    chain.raise_if_any_failed()


class DropChain:
    """One run over some drops."""

    def __init__(self, context: AssetExecutionContext, config: DropConfig, places: Places) -> None:
        self._context = context
        self._config = config
        self._places = places
        self._settings = protection_settings(config.options(), places.rid_home())
        self._events = DropEvents(context)
        self._failed: dict[str, Exception] = {}
        self.drops = _drops(context, places)
        done = [self._events.finished(key.to_user_string()) for key in context.selected_asset_keys]
        self._finished: set[str] = set.intersection(*done) if done else set()

    def drop(self, drop: str, workers: Workers) -> Iterator[Event]:
        """Makes what is selected of one drop; a failure is noted and ends this drop alone.

        Raises:
            Exception: one of OF_THE_RUN.
        """
        if drop in self._finished:
            return
        try:
            yield from self._make(drop, workers)
        except OF_THE_RUN:
            raise
        except Exception as error:
            self._context.log.error(f"drop {drop!r}: {_sentence(error)}", exc_info=error)
            self._failed[drop] = error
            if isinstance(error, FailureBudgetExceeded):
                outcome = check_quarantine(error.photos, error.quarantined, self._settings.policy)
                yield from self._events.checked(drop, outcome)

    def raise_if_any_failed(self) -> None:
        """Ends the run as failed if a drop failed.

        Raises:
            Failure: naming each drop that failed; tried again if a repeat may cure one of them.
        """
        if not self._failed:
            return
        reasons = {drop: _sentence(error) for drop, error in self._failed.items()}
        total = len(self.drops)
        said = [f"{drop}: {reason}" for drop, reason in reasons.items()]
        head = "" if total == 1 else f"{len(said)} of {total} drops failed, the others are done. "
        raise Failure(
            head + "; ".join(said[:NAMED]) + ("; ..." if len(said) > NAMED else ""),
            metadata={FAILED_DROPS: _failures(reasons)},
            allow_retries=any(_may_pass(error) for error in self._failed.values()),
        ) from next(iter(self._failed.values()))

    def _make(self, drop: str, workers: Workers) -> Iterator[Event]:
        request = drop_request(drop, self._config, self._places, self._settings)
        catalog: DropCatalog | None = None
        protected: Made | None = None
        if self._selected(PHOTO_CATALOG):
            catalog, made = make_photo_catalog(request, workers, self._places)
            yield from self._events.made(drop, made)
        if self._selected(PROTECTED_CATALOG):
            protected = make_protected_catalog(
                request, self._settings, catalog, workers, self._places, recheck=self._config.recheck
            )
            yield from self._events.made(drop, protected)
            _stop_if_blocked(drop, protected.outcomes)
        elif self._context.selected_asset_check_keys and not self._context.selected_asset_keys:
            for outcome in check_protected_catalog(request, self._settings, workers):
                yield from self._events.checked(drop, outcome)
        if self._selected(PROTECTION_REPORT):
            version = protected.version if protected is not None else self._events.last_version(PROTECTED_CATALOG, drop)
            made = make_protection_report(drop, self._config.report, version, workers, self._places)
            yield from self._events.made(drop, made)

    def _selected(self, asset: str) -> bool:
        return AssetKey(asset) in self._context.selected_asset_keys


def _drops(context: AssetExecutionContext, places: Places) -> list[str]:
    """The drops of the run; of a run of checks for no drop in particular, all that were protected."""
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    return places.protected_table().drops()


def _stop_if_blocked(drop: str, outcomes: tuple[Outcome, ...]) -> None:
    blocking = [outcome.check for outcome in outcomes if outcome.blocks]
    if blocking:
        raise BlockedByCheck(f"drop {drop!r} is committed but not as it should be: {', '.join(blocking)} failed")


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {text}"


def _may_pass(error: Exception) -> bool:
    return isinstance(error, ConflictingCommit) or is_transient(error)


def _failures(reasons: dict[str, str]) -> TableMetadataValue:
    return MetadataValue.table(
        records=[TableRecord({"drop": drop, "reason": reason}) for drop, reason in reasons.items()],
        schema=TableSchema([TableColumn("drop", "string"), TableColumn("reason", "string")]),
    )

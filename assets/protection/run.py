"""Protects a drop: plan, run what is missing on workers, commit. The asset and `rid protect` are both this.

What is done is what the committed table and the files under their work keys say; there is no other state. So a killed
run is simply run again, and a finished one finds nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from time import monotonic

import pyarrow as pa

from rid.assets.catalog.index import index_source
from rid.assets.catalog.plan import DropCatalog, catalog_storage, plan_shards, read_catalog, read_current, write_catalog
from rid.assets.catalog.sources import InputChanged
from rid.assets.catalog.uris import with_own_prefix
from rid.assets.protection.failure_budget import check_failure_budget
from rid.assets.protection.isolation import isolate
from rid.assets.protection.known_photos import known_rows
from rid.assets.protection.published_names import names_of_other_drops, remove_unpublished
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.shards.files import ShardColumns
from rid.assets.protection.shards.outcomes import SIDECARS
from rid.assets.protection.shards.protectors import DefenderFile
from rid.assets.protection.shards.task import CODE_EPOCH, protect_shard
from rid.assets.protection.shards.work import DropWork, ShardResult, ShardTask
from rid.assets.protection.state import DropState, read_state
from rid.assets.protection.summary import DropSummary
from rid.resources.commits import ProtectedTable, ShardFile
from rid.resources.dask_workers import Workers
from rid.resources.run_locks import run_lock
from rid.resources.schemas import CATALOG, RECEIPTS, Status
from rid.resources.storage import Storage

REPLANS = 3


class RowsDoNotAddUp(RuntimeError):
    """The committed rows are not those of the catalog: a defect, never a state to publish."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run: photos finished of those that have to be done."""

    stage: str
    done: int
    total: int


Report = Callable[[Progress], None]


def _silent(_: Progress) -> None:
    """Reports nothing."""


def catalogue(request: ProtectionRequest, workers: Workers, report: Report = _silent) -> DropCatalog:
    """Lists and indexes the source and writes the drop's catalog; an unchanged one writes nothing."""
    previous = read_current(request.target.state, request.drop)
    same = previous is not None and previous.policy_digest == request.policy.digest()
    known = read_catalog(previous) if previous is not None and same else None
    if known is not None and not known.schema.equals(CATALOG):
        known = None  # an earlier version of this code wrote it
    read = 0

    def on_read(count: int) -> None:
        nonlocal read
        read += count
        report(Progress("read", read, max(read, previous.photos if previous else 0)))

    taken: tuple[str, ...] = ()
    if request.target.kind == "files":
        taken = names_of_other_drops(request.target.receipts, request.drop)
    index = index_source(
        request.source,
        workers,
        policy=request.policy,
        previous=known,
        rehash=request.rehash,
        taken=taken,
        allowed_prefixes=request.allowed_prefixes,
        sidecars=request.target.kind == "files",
        columns=request.columns,
        examined=previous.columns if previous is not None else None,
        progress=on_read,
    )
    return write_catalog(request.target.state, request.drop, index, previous)


def run_drop(
    request: ProtectionRequest,
    workers: Workers,
    report: Report = _silent,
    catalog: DropCatalog | None = None,
) -> DropSummary:
    """Protects a drop and commits it.

    Args:
        request: what to do.
        workers: where to do it; none is started if nothing is missing.
        report: called as photos finish.
        catalog: a catalog that was just written; None makes one.

    Raises:
        FailureBudgetExceeded: if too many photos are quarantined.
        InputChanged: if the source keeps changing while it is read.
        ConflictingCommit: if another run committed the drop with another plan meanwhile.
    """
    began = monotonic()
    for attempt in range(REPLANS):
        current = (
            catalog if catalog is not None and attempt == 0 else catalogue(_after(request, attempt), workers, report)
        )
        try:
            with run_lock(catalog_storage(request.target.state, request.drop), request.drop):
                return _run_planned(request, current, workers, report, began)
        except InputChanged:
            if attempt + 1 == REPLANS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _after(request: ProtectionRequest, attempt: int) -> ProtectionRequest:
    """A second attempt lists again, the last one reads all: an overwritten file can have an unchanged listing."""
    return replace(request, rehash=request.rehash or attempt + 1 == REPLANS)


def _run_planned(
    request: ProtectionRequest, catalog: DropCatalog, workers: Workers, report: Report, began: float
) -> DropSummary:
    table, folder = request.target.receipts, request.target.folder
    shards = list(plan_shards(catalog, request.salt()))
    state = read_state(table, request.drop, catalog, shards, salt=request.salt(), folder=folder, retry=request.retry)
    files = {key: shard.file for key, shard in state.done.items()}
    results = _protect_missing(request, catalog, state, workers, report)
    files |= {key: ShardFile(result.path, result.size, result.photos) for key, result in results.items()}
    outcomes = _count(done.outcomes for done in state.done.values()) + _count(r.outcomes for r in results.values())
    _check_rows(request, catalog, outcomes, sum(file.rows for file in files.values()))
    commit = table.commit_drop(
        request.drop, [files[shard.work_key] for shard in shards], _table_schema(request, catalog), _metadata(request)
    )
    if state.work:
        request.target.storage.remove_abandoned()
    if folder is not None and commit.removed:
        remove_unpublished(table, request.drop, folder, state.published)
    return DropSummary(
        drop=request.drop,
        photos=catalog.photos,
        protected=outcomes[Status.PROTECTED.value],
        skipped=outcomes[Status.SKIPPED.value],
        sidecars=outcomes[SIDECARS],
        quarantined=_by_reason(outcomes),
        ignored=catalog.ignored,
        shards=len(shards),
        shards_written=sum(result.written for result in results.values()),
        photos_computed=sum(result.computed for result in results.values()),
        bytes_in=catalog.bytes_in,
        seconds=monotonic() - began,
        version=commit.version,
        committed=commit.added + commit.removed > 0,
        defender_digest=request.defender.digest,
        catalog_url=catalog.url,
    )


def _protect_missing(
    request: ProtectionRequest, catalog: DropCatalog, state: DropState, workers: Workers, report: Report
) -> dict[str, ShardResult]:
    """Protects the shards that are not done, and returns their results by work key.

    Raises:
        FailureBudgetExceeded: if too many photos are quarantined; finished shards stay and are recognised later.
    """
    if not state.work:
        return {}
    known = known_rows(catalog, [work.shard.number for work in state.work], _tables(request))
    drop = drop_work(request, catalog, guarded=workers.separate)
    tasks = [ShardTask(drop, work, known.get(work.shard.number, ())) for work in state.work]
    total = sum(work.shard.photos for work in state.work)
    outcomes = _count(done.outcomes for done in state.done.values())
    results: dict[str, ShardResult] = {}
    deadly: list[ShardTask] = []
    finished = 0

    def accept(task: ShardTask, result: ShardResult) -> None:
        nonlocal finished
        finished += result.photos
        results[task.work_key] = result
        outcomes.update(result.outcomes)
        report(Progress("protect", finished, total))
        check_failure_budget(request.policy, outcomes, catalog.photos)

    for completed in workers.run(protect_shard, tasks, prefix="protect", expected=len(tasks)):
        if completed.result is None:
            deadly.append(completed.task)
        else:
            accept(completed.task, completed.result)
    for task in deadly:
        accept(task, isolate(task, workers))
    return results


def _check_rows(request: ProtectionRequest, catalog: DropCatalog, outcomes: Counter[str], rows: int) -> None:
    """Refuses to commit anything but one row with one status for each photo that came in."""
    counted = sum(outcomes[status.value] for status in Status)
    if not catalog.photos == counted == rows:
        raise RowsDoNotAddUp(
            f"drop {request.drop!r}: {catalog.photos} photos came in, {rows} rows and {counted} outcomes came out"
        )


def _tables(request: ProtectionRequest) -> list[ProtectedTable]:
    """The tables whose receipts bear marks out, the target's own first."""
    return list({table.url: table for table in (request.target.receipts, *request.known)}.values())


def drop_work(request: ProtectionRequest, catalog: DropCatalog, *, guarded: bool) -> DropWork:
    """Returns what all shards of a catalogued drop have in common.

    Args:
        request: what was asked for.
        catalog: the drop's.
        guarded: protect photos in a child process, as workers that other tasks share have to.
    """
    return DropWork(
        name=request.drop,
        catalog_url=catalog.url,
        target=request.target.storage,
        receipts=request.target.receipts.storage,
        columns=ShardColumns.of(request.target.kind, catalog),
        defender=DefenderFile.of(request.defender),
        policy=request.policy,
        budget_levels=request.budget_levels,
        salt=request.salt(),
        retry=request.retry,
        allowed_prefixes=with_own_prefix(Storage(catalog.source), request.allowed_prefixes),
        guarded=guarded,
    )


def _count(outcomes: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in outcomes:
        total.update(part)
    return total


def _by_reason(outcomes: Counter[str]) -> dict[str, int]:
    prefix = f"{Status.QUARANTINED.value}:"
    return {name.removeprefix(prefix): outcomes[name] for name in sorted(outcomes) if name.startswith(prefix)}


def _table_schema(request: ProtectionRequest, catalog: DropCatalog) -> pa.Schema:
    """The schema of the committed table: a shard's columns and the drop."""
    columns = ShardColumns.of(request.target.kind, catalog)
    return columns.schema().append(RECEIPTS.field("drop")).remove_metadata()


def _metadata(request: ProtectionRequest) -> dict[str, str]:
    """Notes on a commit for the table's history."""
    return {
        "defender_digest": request.defender.digest,
        "policy_digest": request.policy.digest(),
        "budget_levels": str(request.budget_levels),
        "code_epoch": str(CODE_EPOCH),
    }

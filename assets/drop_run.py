"""Protects a drop: plan, run what is missing on workers, commit. The asset and `rid protect` are both this.

What is done is what the committed table and the files under their work keys say; there is no other state. So a killed
run is simply run again, and a finished one finds nothing to do.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any

import pyarrow as pa

from assets.drop_plan import DropCatalog, Shard, plan_shards, read_catalog, read_current, write_catalog
from assets.photo_index import index_source
from assets.shard_tasks import (
    CODE_EPOCH,
    ProbeTask,
    ShardResult,
    ShardTask,
    TargetKind,
    probe_photo,
    protect_shard,
    shard_schema,
)
from assets.source_photos import InputChanged
from models.policy import ProtectionPolicy
from resources.commits import ProtectedTable, ShardFile
from resources.dask_workers import Workers, WorkersUnavailable
from resources.defender_registry import DefenderEntry
from resources.schemas import RECEIPTS, Reason, Status, check_drop_name
from resources.storage import Storage

REPLANS = 3


class FailureBudgetExceeded(RuntimeError):
    """More photos are quarantined than the policy allows; what is done stays and a new run goes on from it."""


class RowsDoNotAddUp(RuntimeError):
    """The committed rows are not those of the catalog: a defect, never a state to publish."""


@dataclass(frozen=True)
class ProtectionRequest:
    """What to protect, with what, and where to put it.

    Attributes:
        source: folder, prefix or Parquet.
        target: where protected photos go.
        drop: the drop's name.
        target_kind: "files" or "table".
        state: where catalogs lie.
        receipts: the table of the receipts.
        defender: one defender; a run is pinned to its digest.
        policy: the policy.
        budget_levels: the budget, in 8-bit levels.
        rehash: read every photo again, even those whose listing is unchanged.
        retry: quarantine reasons whose photos are tried again.
    """

    source: str
    target: str
    drop: str
    target_kind: TargetKind
    state: str
    receipts: str
    defender: DefenderEntry
    policy: ProtectionPolicy
    budget_levels: int
    rehash: bool = False
    retry: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_drop_name(self.drop)
        known = {reason.value for reason in Reason}
        for reason in self.retry:
            if reason not in known:
                raise ValueError(f"reason {reason!r} is unknown: one of {', '.join(sorted(known))}")

    def salt(self) -> str:
        """What decides the output beside the photos, as part of every work key."""
        parts = {
            "defender": self.defender.digest,
            "policy": self.policy.digest(),
            "budget_levels": self.budget_levels,
            "target_kind": self.target_kind,
            "code_epoch": CODE_EPOCH,
        }
        return json.dumps(parts, sort_keys=True)


@dataclass(frozen=True)
class DropSummary:
    """What a run did.

    Attributes:
        drop: its name.
        photos: rows of the drop.
        protected: photos that are published protected.
        skipped: photos that are published unchanged.
        quarantined: photos that are held back, by reason.
        ignored: files of the source that are no photos.
        shards: shards of the drop.
        shards_written: shards that this run wrote.
        photos_computed: photos that this run protected.
        bytes_in: of the drop.
        seconds: this run took.
        version: of the table; -1 if it has none.
        committed: whether this run committed anything.
        defender_digest: the defender.
        catalog_url: the catalog.
    """

    drop: str
    photos: int
    protected: int
    skipped: int
    quarantined: dict[str, int] = field(hash=False)
    ignored: int
    shards: int
    shards_written: int
    photos_computed: int
    bytes_in: int
    seconds: float
    version: int
    committed: bool
    defender_digest: str
    catalog_url: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands: photos finished of those that have to be done."""

    stage: str
    done: int
    total: int


Report = Callable[[Progress], None]


def _silent(_: Progress) -> None:
    """Reports nothing."""


def catalogue(request: ProtectionRequest, workers: Workers, report: Report = _silent) -> DropCatalog:
    """Lists and indexes the source and writes the drop's catalog; an unchanged one writes nothing."""
    previous = read_current(request.state, request.drop)
    known = read_catalog(previous) if previous is not None else None
    read = 0

    def on_read(count: int) -> None:
        nonlocal read
        read += count
        report(Progress("read", read, max(read, previous.photos if previous else 0)))

    index = index_source(
        request.source,
        workers,
        policy=request.policy,
        previous=known,
        rehash=request.rehash,
        taken=_names_of_other_drops(request),
        progress=on_read,
    )
    return write_catalog(request.state, request.drop, index, previous)


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
        current = catalog if catalog is not None and attempt == 0 else catalogue(_after(request, attempt), workers, report)
        try:
            return _run_planned(request, current, workers, report, began)
        except InputChanged:
            if attempt + 1 == REPLANS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _after(request: ProtectionRequest, attempt: int) -> ProtectionRequest:
    """A second attempt reads everything again: an overwritten file can have an unchanged listing."""
    return replace(request, rehash=request.rehash or attempt > 1)


def _run_planned(
    request: ProtectionRequest, catalog: DropCatalog, workers: Workers, report: Report, began: float
) -> DropSummary:
    table = ProtectedTable(request.receipts)
    shards = list(plan_shards(catalog, request.salt()))
    missing, done = _missing(request, catalog, table, shards)
    total = sum(shard.photos for shard, _ in missing)
    written, computed, finished = 0, 0, 0
    outcomes: Counter[str] = Counter()
    tasks = {task: shard for shard, task in missing}
    for completed in workers.run(protect_shard, iter(tasks), prefix="protect", expected=len(tasks)):
        if completed.result is None:
            result = _isolate(completed.task, tasks[completed.task], workers)
        else:
            result = completed.result
        done[completed.task.work_key] = ShardFile(result.path, result.size, result.photos)
        written += result.written
        computed += result.computed
        finished += tasks[completed.task].photos
        outcomes.update(result.outcomes)
        report(Progress("protect", finished, total))
        _check_failure_budget(request.policy, outcomes, catalog.photos)
    schema = _table_schema(request, catalog)
    files = [done[shard.work_key] for shard in shards]
    metadata = {
        "defender_digest": request.defender.digest,
        "policy_digest": request.policy.digest(),
        "budget_levels": str(request.budget_levels),
        "code_epoch": str(CODE_EPOCH),
    }
    commit = table.commit_drop(request.drop, files, schema, metadata)
    return _summary(request, catalog, table, shards, written, computed, commit.added + commit.removed > 0, began)


def _missing(
    request: ProtectionRequest, catalog: DropCatalog, table: ProtectedTable, shards: list[Shard]
) -> tuple[list[tuple[Shard, ShardTask]], dict[str, ShardFile]]:
    """Splits shards into those to be done and those that are, with their files."""
    there = _files_there(table, request.drop)
    live = {_work_key_of(path): path for path in table.live_files(request.drop)}
    lost = _shards_with_lost_outputs(request, table, there)
    retried = _shards_to_retry(request, table)
    missing, done = [], {}
    for shard in shards:
        generations = there.get(shard.work_key, {})
        live_path = live.get(shard.work_key)
        again = live_path is not None and (live_path in lost or live_path in retried)
        if not again and live_path is not None:
            done[shard.work_key] = ShardFile(live_path, generations[_generation_of(live_path)], shard.photos)
            continue
        newest = max(generations, default=0)
        known = max([newest, _generation_of(live_path) if live_path else 0])
        task = _task(request, catalog, shard, known + 1 if again else newest)
        if not again and generations and request.target_kind == "table":
            done[shard.work_key] = ShardFile(task.path, generations[newest], shard.photos)
            continue
        missing.append((shard, task))
    return missing, done


def _files_there(table: ProtectedTable, drop: str) -> dict[str, dict[int, int]]:
    """Sizes of the drop's shard files by work key and generation: one listing."""
    found: dict[str, dict[int, int]] = {}
    for entry in table.storage.list_files(f"drop={drop}"):
        if entry.path.endswith(".parquet"):
            found.setdefault(_work_key_of(entry.path), {})[_generation_of(entry.path)] = entry.size
    return found


def _shards_with_lost_outputs(
    request: ProtectionRequest, table: ProtectedTable, there: dict[str, dict[int, int]]
) -> set[str]:
    """Paths of live shards whose file, or one of whose published photos, is gone or has another size."""
    live = table.live_files(request.drop)
    lost = {
        path for path, file in live.items() if there.get(_work_key_of(path), {}).get(_generation_of(path)) != file.size
    }
    if request.target_kind == "table":
        return lost
    published = {entry.path: entry.size for entry in Storage(request.target).list_files()}
    for path in set(live) - lost:
        rows = table.read_shard(path, ["output_path", "bytes_out"])
        if any(name is not None and published.get(name) != size for name, size in rows):
            lost.add(path)
    return lost


def _shards_to_retry(request: ProtectionRequest, table: ProtectedTable) -> set[str]:
    if not request.retry:
        return set()
    return {
        path
        for path in table.live_files(request.drop)
        if any(reason in request.retry for (reason,) in table.read_shard(path, ["reason"]))
    }


def _task(request: ProtectionRequest, catalog: DropCatalog, shard: Shard, generation: int) -> ShardTask:
    onnx = request.defender.onnx_file
    return ShardTask(
        drop=request.drop,
        catalog_url=catalog.url,
        row_group=shard.row_group,
        work_key=shard.work_key,
        generation=generation,
        target_url=request.target,
        receipts_url=request.receipts,
        target_kind=request.target_kind,
        layout=catalog.layout,
        passthrough=catalog.passthrough,
        defender_url=request.defender.location,
        defender_digest=request.defender.digest,
        onnx_file=onnx,
        onnx_sha256=request.defender.config["files"][onnx],
        policy_json=request.policy.to_json(),
        budget_levels=request.budget_levels,
    )


def _isolate(task: ShardTask, shard: Shard, workers: Workers) -> ShardResult:
    """Finds the photos that kill a worker, each in a task of its own, and does the shard without them.

    The death of a worker can be blamed on a neighbour's task, so that every photo is tried before one is quarantined.
    """
    probes = [ProbeTask(task, row) for row in range(shard.photos)]
    killers = [
        done.task.row
        for done in workers.run(probe_photo, probes, prefix="probe", expected=len(probes))
        if done.result is None
    ]
    again = replace(task, killed=tuple(sorted(killers)))
    for done in workers.run(protect_shard, [again], prefix="protect", expected=1):
        if done.result is not None:
            return done.result
    raise WorkersUnavailable("workers die on photos that each pass alone: give them more memory, then run again")


def _check_failure_budget(policy: ProtectionPolicy, outcomes: Counter[str], photos: int) -> None:
    quarantined = outcomes[Status.QUARANTINED.value]
    if quarantined > policy.max_quarantined and quarantined > policy.max_quarantined_share * photos:
        reasons = ", ".join(f"{n} {name.partition(':')[2]}" for name, n in outcomes.most_common() if name.startswith("quarantined:"))
        raise FailureBudgetExceeded(
            f"stopped: {quarantined} of {photos} photos are quarantined ({reasons}), more than the failure budget of "
            f"{policy.max_quarantined_share:.0%}; what is done is kept: mend the source or raise max_quarantined_share"
        )


def _names_of_other_drops(request: ProtectionRequest) -> tuple[str, ...]:
    """Names that other drops have published in a folder target."""
    if request.target_kind != "files":
        return ()
    table = ProtectedTable(request.receipts)
    names: list[str] = []
    for drop in table.drops():
        if drop != request.drop:
            names += [name for name in table.read(drop, ["output_path"]).column(0).to_pylist() if name]
    return tuple(names)


def _work_key_of(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet").partition("-")[0]


def _generation_of(path: str) -> int:
    return int(path.rpartition("/")[2].removesuffix(".parquet").partition("-")[2] or 0)


def _table_schema(request: ProtectionRequest, catalog: DropCatalog) -> pa.Schema:
    """The schema of the committed table: a shard's columns and the drop."""
    columns = shard_schema(_task(request, catalog, Shard(0, "", 0), 0))
    return columns.append(RECEIPTS.field("drop"))


def _summary(
    request: ProtectionRequest,
    catalog: DropCatalog,
    table: ProtectedTable,
    shards: list[Shard],
    written: int,
    computed: int,
    committed: bool,
    began: float,
) -> DropSummary:
    """Counts the committed rows and checks that every input row has exactly one status."""
    rows = table.read(request.drop, ["status", "reason"])
    statuses = Counter(rows.column("status").to_pylist())
    quarantined = Counter(
        reason for status, reason in zip(*(c.to_pylist() for c in rows.columns), strict=True) if status == Status.QUARANTINED
    )
    if rows.num_rows != catalog.photos or set(statuses) - {status.value for status in Status}:
        raise RowsDoNotAddUp(f"drop {request.drop!r}: {catalog.photos} photos came in, the table has {rows.num_rows} rows")
    return DropSummary(
        drop=request.drop,
        photos=catalog.photos,
        protected=statuses[Status.PROTECTED.value],
        skipped=statuses[Status.SKIPPED.value],
        quarantined={reason: quarantined[reason] for reason in sorted(quarantined)},
        ignored=catalog.ignored,
        shards=len(shards),
        shards_written=written,
        photos_computed=computed,
        bytes_in=catalog.bytes_in,
        seconds=monotonic() - began,
        version=table.version(),
        committed=committed,
        defender_digest=request.defender.digest,
        catalog_url=catalog.url,
    )


def default_drop_name(source: str) -> str:
    """A name for a source that was given none: a digest of its normalised URL."""
    return hashlib.sha256(Storage(source).url.encode()).hexdigest()[:16]


def to_json(summary: DropSummary) -> dict[str, Any]:
    """Returns a summary as JSON values."""
    return asdict(summary)

"""The state of a drop: read from the table, the shard files and the published photos, kept nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rid.assets.catalog.plan import DropCatalog, Shard, read_shard_rows
from rid.assets.protection.shards.files import recorded_salt
from rid.assets.protection.shards.names import parse_shard_file
from rid.assets.protection.shards.outcomes import outcome_names
from rid.assets.protection.shards.work import ShardWork
from rid.resources.commits import ProtectedTable, ShardFile
from rid.resources.records import SidecarReceipt, sidecar_receipts
from rid.resources.schemas import Reason, Status
from rid.resources.storage import Storage

READERS = 8  # shard files read at a time


@dataclass(frozen=True)
class LiveShard:
    """A committed shard file, and whether it and all that it published are still there.

    Attributes:
        file: as committed.
        work_key: of its work.
        generation: 0, or the number of results that the same work had before.
        whole: False if the file or a photo that it published is gone or has another size.
        outcomes: rows by `outcome_names`.
        published: photos of a folder target that it published.
    """

    file: ShardFile
    work_key: str
    generation: int
    whole: bool
    outcomes: Counter[str] = field(hash=False)
    published: tuple[str, ...] = ()


@dataclass(frozen=True)
class _CommittedRow:
    """The part of a receipt that says whether a committed shard still holds."""

    status: str
    reason: str | None
    output_path: str | None
    bytes_out: int | None
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


@dataclass(frozen=True)
class DropState:
    """Shards that are done, and shards that are not.

    Attributes:
        done: committed shards that hold, by work key.
        work: the rest.
        published: photos that the committed drop has published in a folder target.
    """

    done: dict[str, LiveShard]
    work: list[ShardWork]
    published: frozenset[str]


def read_state(
    table: ProtectedTable,
    drop: str,
    catalog: DropCatalog,
    shards: list[Shard],
    *,
    salt: str,
    folder: Storage | None,
    retry: Sequence[str] = (),
) -> DropState:
    """Compares a plan with what is committed.

    Args:
        table: the target's table.
        drop: its name.
        catalog: the drop's catalog.
        shards: the plan.
        salt: what decides the output beside the photos.
        folder: a folder target, whose photos are listed; None for a table target.
        retry: reasons of photos that were quarantined or skipped, whose shards are done again; `already_protected`
            also means those that came with a mark and were protected anew.
    """
    live = live_shards(table, drop, folder)
    wanted = {f"{status}:{reason}" for status in (Status.QUARANTINED, Status.SKIPPED) for reason in retry}
    marks = Reason.ALREADY_PROTECTED in retry
    planned = {shard.work_key for shard in shards}
    stale = [shard for key, shard in live.items() if key not in planned]
    owners = _owners_of_keys(table, stale, salt)
    done: dict[str, LiveShard] = {}
    work: list[ShardWork] = []
    for shard in shards:
        found = live.get(shard.work_key)
        again = marks and shard.marked
        if found is None:
            work.append(ShardWork(shard, 0, again, _earlier(catalog, shard, owners)))
        elif again or not found.whole or wanted & set(found.outcomes):
            work.append(ShardWork(shard, found.generation, True, (found.file.path,)))
        else:
            done[shard.work_key] = found
    return DropState(done, work, frozenset(name for shard in live.values() for name in shard.published))


def live_shards(table: ProtectedTable, drop: str, folder: Storage | None) -> dict[str, LiveShard]:
    """Returns the drop's committed shards by work key, held against one listing of the table and one of the folder."""
    live = table.live_files(drop)
    if not live:
        return {}
    sizes = {entry.path: entry.size for entry in table.storage.list_files(f"drop={drop}")}
    outputs = {entry.path: entry.size for entry in folder.list_files()} if folder is not None else None
    with ThreadPoolExecutor(READERS) as pool:
        shards = pool.map(
            lambda file: _live_shard(table, file, sizes.get(file.path) == file.size, outputs), live.values()
        )
        return {shard.work_key: shard for shard in shards}


def _live_shard(table: ProtectedTable, file: ShardFile, there: bool, outputs: dict[str, int] | None) -> LiveShard:
    key, generation = parse_shard_file(file.path)
    if not there:
        return LiveShard(file, key, generation, False, Counter(), ())
    rows = table.shard_records(file.path, _CommittedRow)
    outcomes = Counter(name for row in rows for name in outcome_names(row.status, row.reason, len(row.sidecars)))
    published = [(row.output_path, row.bytes_out) for row in rows if row.output_path is not None]
    published += [(sidecar.path, sidecar.bytes) for row in rows for sidecar in row.sidecars]
    whole = outputs is None or all(outputs.get(path) == size for path, size in published)
    return LiveShard(file, key, generation, whole, outcomes, tuple(path for path, _ in published))


def _owners_of_keys(table: ProtectedTable, stale: list[LiveShard], salt: str) -> dict[str, str]:
    """Path of the replaced shard that holds each key; empty where the replaced shards are other work.

    The shards of a committed drop were all made by the same work: one of them answers for all.
    """
    paths = [shard.file.path for shard in stale if shard.whole]
    if not paths:
        return {}
    if recorded_salt(table.storage, paths[0]) != salt:
        return {}
    return {key: path for path in paths for key in table.shard_keys(path)}


def _earlier(catalog: DropCatalog, shard: Shard, owners: dict[str, str]) -> tuple[str, ...]:
    if not owners:
        return ()
    rows = read_shard_rows(catalog.url, shard.number)
    return tuple(sorted({owners[row.key] for row in rows if row.key in owners}))

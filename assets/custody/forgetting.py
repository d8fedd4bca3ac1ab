"""Removes photos from what was published, from receipts, catalogs and reports, as if they had never come in.

Nothing else of a drop changes: its other rows are carried over as they are, and their photos are not protected again.
Replaced shard files stay for the table's history until `custody.vacuum` removes them; the source is not touched.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rid.assets.catalog.plan import (
    DropCatalog,
    catalog_storage,
    plan_shards,
    read_current,
    read_shard_rows,
    read_shards,
    write_catalog_without,
)
from rid.assets.custody.forgotten_training import forget_training
from rid.assets.custody.traces import Trace, catalogs_with, drops_with_files, names_in, shards_with
from rid.assets.protection.published_names import published_names
from rid.assets.protection.shards.files import ShardColumns, ShardRow, ShardWriter, recorded_salt
from rid.assets.protection.shards.names import parse_shard_file, shard_file
from rid.assets.protection.targets import find_target
from rid.resources.catalogs import open_parquet
from rid.resources.commits import ProtectedTable, ShardFile
from rid.resources.rid_home import RidHome
from rid.resources.run_locks import run_lock
from rid.resources.storage import Storage


@dataclass
class Forgotten:
    """Photos that were removed, and what is left of them.

    Attributes:
        drops: photos removed from the current table, by drop.
        deleted: files deleted.
        left: files that still name or hold one of the photos.
        in_source: keys whose originals lie where they came from; another run would protect them again.
    """

    drops: dict[str, int] = field(default_factory=dict)
    deleted: int = 0
    left: list[Trace] = field(default_factory=list)
    in_source: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _StoredDrop:
    """All that a drop is kept in: its table, its target, its catalogs, and its reports.

    Attributes:
        folder: of a folder target; None if the table holds the photos.
        state: where the drop's catalogs lie; None if it has none.
        reports: folders that a report of the drop may lie in.
        home: RID_HOME of the deployment, where trainings keep squares of photos.
    """

    table: ProtectedTable
    folder: Storage | None
    drop: str
    state: Storage | None
    reports: tuple[Storage, ...]
    home: RidHome | None


def forget(target: str, keys: frozenset[str], *, home: RidHome | None = None, dry_run: bool = False) -> Forgotten:
    """Removes photos from every drop of a target.

    A run that was killed is run again; what is gone already is not missed.

    Args:
        target: a folder, a prefix or a table.
        keys: the photos' keys, as receipts have them.
        home: RID_HOME of the deployment whose reports and trainings may hold the photos.
        dry_run: only say what is there.

    Raises:
        NotATarget: if nothing was published there.
        ValueError: if a drop's catalog names photos that are not protected yet.
    """
    found = find_target(target)
    table, result = found.receipts, Forgotten()
    for drop in drops_with_files(table):
        state = next((state for state in found.states() if read_current(state, drop)), None)
        reports = [table.storage.child("_rid", "_reports", drop)]
        reports += [home.reports(drop)] if home is not None else []
        stored = _StoredDrop(
            table, found.folder, drop, state, tuple(report for report in reports if report.is_folder()), home
        )
        locked = run_lock(catalog_storage(state, drop), drop) if state and not dry_run else contextlib.nullcontext()
        with locked:
            _forget_in(stored, keys, result, dry_run)
    return result


def _forget_in(stored: _StoredDrop, keys: frozenset[str], result: Forgotten, dry_run: bool) -> None:
    """Removes the photos from one drop."""
    shards = shards_with(stored.table, stored.drop, keys)
    catalogs = catalog_storage(stored.state, stored.drop) if stored.state is not None else None
    if not shards and not (catalogs and catalogs_with(catalogs, keys)):
        return
    live = set(stored.table.live_files(stored.drop))
    rows = [key for path in shards if path in live for key in stored.table.shard_keys(path) if key in keys]
    catalog = read_current(stored.state, stored.drop) if stored.state is not None else None
    result.in_source += sorted(_still_there(catalog, keys)) if catalog else []
    if rows:
        result.drops[stored.drop] = len(rows)
    if dry_run:
        result.left += _traces(stored, keys)
        return
    if catalog is not None and stored.state is not None:
        catalog = write_catalog_without(stored.state, stored.drop, catalog, keys)
        _commit_without(stored, catalog, len(rows))
    names = names_in(stored.table, shards, keys)
    if stored.folder is not None and names:
        taken = {name for drop in stored.table.drops() for name in published_names(stored.table, drop)}
        for name in sorted(names - taken):
            if stored.folder.exists(name):
                stored.folder.delete(name)
                result.deleted += 1
    if catalogs is not None:
        for path in catalogs_with(catalogs, keys):
            catalogs.delete(path)
            result.deleted += 1
    if shards:
        for report in stored.reports:
            for entry in list(report.list_files()):
                report.delete(entry.path)
                result.deleted += 1
        result.deleted += forget_training(stored.home.storage, stored.drop) if stored.home is not None else 0
    result.left += _traces(stored, keys)


def _commit_without(stored: _StoredDrop, catalog: DropCatalog, count: int) -> None:
    """Commits shards without the photos, in place of those that have them."""
    live = stored.table.live_files(stored.drop)
    schema = stored.table.schema()
    if not live or schema is None:
        return
    salt = recorded_salt(stored.table.storage, next(iter(live)))
    by_work = {parse_shard_file(path)[0]: file for path, file in live.items()}
    shards = list(plan_shards(catalog, salt))
    planned = {shard.work_key for shard in shards}
    replaced = [file.path for work, file in by_work.items() if work not in planned]
    columns = ShardColumns.of("table" if stored.folder is None else "files", catalog)
    owners = {key: path for path in replaced for key in stored.table.shard_keys(path)}
    files = []
    for shard in shards:
        if shard.work_key in by_work:
            files.append(by_work[shard.work_key])
            continue
        wanted = [row.key for row in read_shard_rows(catalog.url, shard.number)]
        if not owners.keys() >= set(wanted):
            raise ValueError(
                f"drop {stored.drop!r} has photos that are not protected yet: finish `rid protect` first, then forget"
            )
        files.append(_write_shard(stored, columns, shard.work_key, wanted, owners))
    stored.table.commit_drop(stored.drop, files, schema, {"forgotten": str(count)})


def _write_shard(
    stored: _StoredDrop, columns: ShardColumns, work_key: str, wanted: list[str], owners: dict[str, str]
) -> ShardFile:
    """Writes a shard whose rows all lie in earlier ones, in the order of the catalog."""
    storage = stored.table.storage
    paths = list(dict.fromkeys(owners[key] for key in wanted))
    generation = 0
    while storage.exists(shard_file(stored.drop, work_key, generation=generation)):
        generation += 1
    path = shard_file(stored.drop, work_key, generation=generation)
    with storage.open(paths[0]) as file:
        schema = open_parquet(file).schema_arrow
    rows = {row.receipt.key: row for row in _rows(stored, columns, paths, frozenset(wanted))}
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / "shard.parquet"
        with ShardWriter(local, columns, schema) as writer:
            for key in wanted:
                writer.write(replace(rows[key], receipt=replace(rows[key].receipt, work_key=work_key)))
        storage.write_file(path, local)
        return ShardFile(path, local.stat().st_size, len(wanted))


def _rows(stored: _StoredDrop, columns: ShardColumns, paths: list[str], wanted: frozenset[str]) -> Iterator[ShardRow]:
    for path in paths:
        with stored.table.storage.open(path) as file:
            parquet = open_parquet(file)
            for group in range(parquet.metadata.num_row_groups):
                rows = columns.read(parquet.read_row_group(group, use_threads=False), stored.drop)
                yield from (row for row in rows if row.receipt.key in wanted)


def _still_there(catalog: DropCatalog, keys: frozenset[str]) -> set[str]:
    """Keys of photos whose originals can be read where they came from."""
    found = set()
    for _, rows in read_shards(catalog.url, ["key", "source_uri"]):
        for key, uri in zip(*(rows.column(i).to_pylist() for i in range(2)), strict=True):
            if key in keys:
                parent, name = Storage(uri).as_parent_and_name()
                found |= {key} if parent.exists(name) else set()
    return found


def _traces(stored: _StoredDrop, keys: frozenset[str]) -> list[Trace]:
    """Finds what is left of the photos in one drop."""
    storage, live = stored.table.storage, set(stored.table.live_files(stored.drop))
    shards = shards_with(stored.table, stored.drop, keys)
    left = [Trace("receipt" if path in live else "history", storage.uri(path)) for path in shards]
    if stored.state is not None:
        catalogs = catalog_storage(stored.state, stored.drop)
        left += [Trace("catalog", catalogs.uri(path)) for path in catalogs_with(catalogs, keys)]
    if stored.folder is not None:
        taken = set(published_names(stored.table, stored.drop)) if stored.drop in stored.table.drops() else set()
        own = names_in(stored.table, [path for path in shards if path in live], keys)
        names = own | (names_in(stored.table, shards, keys) - taken)
        left += [Trace("photo", stored.folder.uri(name)) for name in sorted(names) if stored.folder.exists(name)]
    if shards:
        left += [Trace("report", report.uri(entry.path)) for report in stored.reports for entry in report.list_files()]
    return left

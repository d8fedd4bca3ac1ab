"""Builds the catalog of a drop: one row a photo, with its sha256 and what its header says.

A row whose listing identity (size and ETag or mtime) is that of the previous catalog keeps its recorded sha256; the
rest is read on workers, in batches of BATCH photos or one Parquet row group. Rows of a listing come in order of key,
rows of Parquet in source order. A photo named by a `uri` column has an identity of its own that no listing gives, so
such rows are always read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rid.assets.catalog.index_task import IndexTask, ListedPhoto, index_photos, listed_row, printable, refused
from rid.assets.catalog.names import NameFault, name_faults
from rid.assets.catalog.picture_columns import NONE_NAMED, PictureColumns, check_first_rows
from rid.assets.catalog.sidecars import mark_sidecar_names, match_sidecars
from rid.assets.catalog.uris import with_own_prefix
from rid.models.policy import ProtectionPolicy
from rid.resources.catalogs import SourceListing, list_source, open_parquet
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.mapped_tables import filter_table, iter_values, map_table, sort_table
from rid.resources.records import SourceSidecar, read_records, source_sidecars, to_arrow
from rid.resources.schemas import CATALOG, Reason
from rid.resources.storage import FileEntry, Storage

BATCH = 256  # photos an index task
FEW = 16  # photos that are not worth starting workers for
KILLED = "a worker died while it read this photo's header"
NAME_REASONS = (Reason.UNSAFE_NAME.value, Reason.NAME_COLLISION.value)


@dataclass(frozen=True)
class _KnownPhoto:
    """The part of a row of the last catalog that says whether the photo has to be read again."""

    source_uri: str
    identity: str
    input_sha256: str | None
    sidecars: tuple[SourceSidecar, ...] = source_sidecars()


@dataclass(frozen=True)
class PhotoIndex:
    """The rows of a drop, and what the listing says beside them.

    Attributes:
        rows: in the CATALOG schema.
        listing: the source as listed.
        policy_digest: of the policy whose limits the headers were held against.
        ignored: files of the source that are neither photos nor sidecars of photos.
        columns: what becomes of the source's columns that hold pictures; None if it has none that could.
        hashed: photos that had to be read.
        unchanged: whether the rows are those of the previous catalog.
    """

    rows: pa.Table
    listing: SourceListing
    policy_digest: str
    ignored: int
    columns: PictureColumns | None = None
    hashed: int = 0
    unchanged: bool = False


def index_source(
    source: Storage,
    workers: Workers,
    *,
    policy: ProtectionPolicy | None = None,
    previous: pa.Table | None = None,
    rehash: bool = False,
    taken: tuple[str, ...] = (),
    allowed_prefixes: tuple[str, ...] = (),
    sidecars: bool = False,
    columns: PictureColumns = NONE_NAMED,
    examined: PictureColumns | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> PhotoIndex:
    """Lists a source and returns a row for each of its photos.

    Args:
        source: a folder, a prefix, a Parquet file or a folder of Parquet files.
        workers: where unknown photos are read; not started if there are none.
        policy: limits for the header check; the default policy if None.
        previous: rows of the drop's last catalog; unchanged ones are not read again.
        rehash: reads everything again.
        taken: names that other drops have published in the same target.
        allowed_prefixes: prefixes under which a `uri` column may name photos, beside the source's own place.
        sidecars: whether XMP files beside photos go along with them.
        columns: what becomes of columns that hold pictures.
        examined: those that `previous` was made with; with others, everything is read again.
        progress: called with the number of photos read since the last call.

    Raises:
        PicturesNotNamed: if a column beside the photos holds pictures and is not named.
        ValueError: if the source holds no photos or has columns that cannot be carried.
    """
    listing = list_source(source)
    own = columns.of(listing)
    check_first_rows(listing, columns)
    known = None if rehash or own != examined else previous
    limits = policy or ProtectionPolicy()
    beside = match_sidecars(listing.files, listing.sidecars if sidecars else ())
    if listing.kind == "files":
        kept, tasks = _plan_files(listing, limits, known, beside)
    else:
        common = IndexTask(
            listing.base, limits, allowed_prefixes=with_own_prefix(listing.base, allowed_prefixes), columns=columns
        )
        kept, tasks = _plan_parquet(listing, common, known)
    found = _read(tasks, workers, progress)
    rows = _in_order(map_table(chain([kept], found), CATALOG), listing.kind)
    hashed = rows.num_rows - kept.num_rows
    if listing.kind == "parquet" and hashed:
        rows = _with_unique_keys(rows)
    if not rows.num_rows:
        raise ValueError(
            f"{source.url} holds no photos: give a folder or prefix with images, or Parquet with an image column"
        )
    marked = mark_sidecar_names(_mark_names(rows, taken), taken) if listing.kind == "files" else rows
    unchanged = known is not None and marked.equals(_in_order(known, listing.kind))
    used = {entry.path for entries in beside.values() for entry in entries}
    ignored = listing.ignored + len(listing.sidecars) - len(used)
    return PhotoIndex(marked, listing, limits.digest(), ignored, own, hashed, unchanged)


def _read(tasks: list[IndexTask], workers: Workers, progress: Callable[[int], None]) -> Iterator[pa.Table]:
    """Yields the rows of tasks as they finish."""
    few = len(tasks) == 1 and 0 < len(tasks[0].photos) <= FEW
    place = Workers(WorkerSettings(n_workers=0)) if few else workers
    for done in place.run(index_photos, tasks, prefix="index", expected=len(tasks)):
        found = done.result if done.result is not None else _isolate(done.task, workers)
        progress(found.num_rows)
        yield found


def _isolate(task: IndexTask, workers: Workers) -> pa.Table:
    """Reads the photos of a task one by one, after a worker died with it; those that kill a worker again are rows.

    Raises:
        ValueError: for a row group of Parquet, which cannot be read in parts.
    """
    if task.parquet_path is not None:
        raise ValueError(
            f"row group {task.row_group} of {task.parquet_path} kills workers that read it: look at it, or replace it"
        )
    tables = []
    singles = [replace(task, photos=(photo,)) for photo in task.photos]
    for done in workers.run(index_photos, singles, prefix="index", expected=len(singles), alone=True):
        if done.result is not None:
            tables.append(done.result)
            continue
        (photo,) = done.task.photos
        row = refused(listed_row(task.source, photo), Reason.WORKER_KILLED, KILLED)
        tables.append(to_arrow([row], CATALOG))
    return pa.concat_tables(tables)


def _plan_files(
    listing: SourceListing, policy: ProtectionPolicy, known: pa.Table | None, beside: dict[str, tuple[FileEntry, ...]]
) -> tuple[pa.Table, list[IndexTask]]:
    """Splits listed files into rows that are known already and tasks for the rest."""
    recorded: dict[str, tuple[int, str]] = {}
    if known is not None:
        recorded = {
            row.source_uri: (i, row.identity)
            for i, row in enumerate(read_records(_KnownPhoto, known))
            if row.input_sha256 and all(sidecar.sha256 for sidecar in row.sidecars)
        }
    keep: list[int] = []
    fresh: list[ListedPhoto] = []
    for entry in listing.files:
        own = beside.get(entry.path, ())
        state = "+".join([entry.identity, *(f"{sidecar.path}-{sidecar.identity}" for sidecar in own)])
        position, identity = recorded.get(listing.base.uri(printable(entry.path)), (-1, ""))
        if position >= 0 and identity == state:
            keep.append(position)
        else:
            fresh.append(ListedPhoto(entry.path, entry.size, state, tuple(sidecar.path for sidecar in own)))
    tasks = [IndexTask(listing.base, policy, tuple(fresh[i : i + BATCH])) for i in range(0, len(fresh), BATCH)]
    kept = known.take(pa.array(keep, pa.int64())) if known is not None and keep else CATALOG.empty_table()
    return kept, tasks


def _plan_parquet(
    listing: SourceListing, common: IndexTask, known: pa.Table | None
) -> tuple[pa.Table, list[IndexTask]]:
    """Splits Parquet files into those whose rows are known already and tasks, a row group each, for the rest."""
    recorded: dict[str, set[str]] = {}
    if known is not None:
        files = known.group_by(["source_uri", "identity"]).aggregate([])
        for uri, identity in zip(*(files.column(name).to_pylist() for name in files.column_names), strict=True):
            recorded.setdefault(uri, set()).add(identity)
    assert listing.layout is not None, "a Parquet listing has a layout"
    keep: list[str] = []
    tasks: list[IndexTask] = []
    for entry in listing.files:
        uri = listing.base.uri(entry.path)
        if listing.layout.kind != "uri" and recorded.get(uri) == {entry.identity}:
            keep.append(uri)
            continue
        with listing.base.open(entry.path) as file:
            groups = open_parquet(file).metadata.num_row_groups
        tasks += [
            replace(common, parquet_path=entry.path, identity=entry.identity, row_group=group)
            for group in range(groups)
        ]
    if known is None or not keep:
        return CATALOG.empty_table(), tasks
    return filter_table(known, pc.is_in(known.column("source_uri"), pa.array(keep))), tasks


def _with_unique_keys(rows: pa.Table) -> pa.Table:
    """Gives every later row of a repeated key a numbered one, in source order: names in Parquet need not be unique."""
    column = rows.column("key")
    hashes = np.fromiter(map(hash, iter_values(column)), np.int64, rows.num_rows)
    if len(np.unique(hashes)) == rows.num_rows:
        return rows
    used: set[str] = set()
    repeats: Counter[str] = Counter()
    keys = []
    for name in iter_values(column):
        key = name
        while key in used:
            repeats[name] += 1
            key = f"{name}#{repeats[name] + 1}"
        used.add(key)
        keys.append(key)
    return rows.set_column(0, CATALOG.field("key"), pa.array(keys, pa.string()))


def _mark_names(rows: pa.Table, taken: tuple[str, ...]) -> pa.Table:
    """Sets the reason of rows whose name is unsafe or collides; a stale one of an earlier listing is removed."""
    faults: dict[int, NameFault] = name_faults(rows.column("key").to_pylist(), taken)
    reasons = rows.column("reason").to_pylist()
    stale = [i for i, reason in enumerate(reasons) if reason in NAME_REASONS and i not in faults]
    if not faults and not stale:
        return rows
    details = rows.column("detail").to_pylist()
    for i in stale:
        reasons[i] = details[i] = None
    for i, fault in faults.items():
        reasons[i], details[i] = fault.reason.value, fault.detail
    for name, values in (("reason", reasons), ("detail", details)):
        rows = rows.set_column(rows.schema.get_field_index(name), CATALOG.field(name), pa.array(values, pa.string()))
    return rows


def _in_order(rows: pa.Table, kind: str) -> pa.Table:
    columns = ["key"] if kind == "files" else ["source_uri", "row_group", "row_in_group"]
    return sort_table(rows, columns)

"""The Delta table of a target: which shard files make up each drop.

Workers write shard files; `commit_drop` makes them the drop's content in one transaction. A reader sees a drop whole
or not at all. Nothing is deleted from storage: replaced files stay until an operator vacuums the table.

How a commit is made, and what each part is for (all tried with deltalake 1.6.6):

- It is the *difference*: an AddAction for each new path, a RemoveAction for each replaced one, in mode "append". Mode
  "overwrite" with a partition filter would also remove the paths that stay, and one commit may not add and remove a
  path.
- It carries a transaction `drop:<name>` with the number after the last one. Two writers that make a drop's *first*
  commit from the same snapshot touch no common file: the log would take both and double the rows; with equal
  numbers the second is refused. Numbers of other drops do not matter to it.
- A refused writer reads the table again. Same plan there: done. As it was: another drop was faster, so commit again.
  Another plan of this drop: `ConflictingCommit`, since this plan was made before that one and may undo it.
- Where the answer of the log's conditional PUT is lost, the repeat is refused, and the table turns out to hold the
  plan.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rid.resources.catalogs import open_parquet
from rid.resources.crash_points import crash_point
from rid.resources.records import Record, columns_of, read_records
from rid.resources.s3_objects import s3_endpoint
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage

ATTEMPTS = 12
STATISTICS_COLUMNS = "key,status,reason,input_sha256,output_sha256,defender_digest"  # never the image bytes


class ConflictingCommit(RuntimeError):
    """Another writer committed a different plan of the same drop while this one was committing."""


@dataclass(frozen=True)
class ShardFile:
    """One shard file to be committed.

    Attributes:
        path: relative to the table.
        size: bytes.
        rows: photos in it.
    """

    path: str
    size: int
    rows: int


@dataclass(frozen=True)
class CommitResult:
    """The result of a commit.

    Attributes:
        version: of the table afterwards.
        added: shard files that are new.
        removed: shard files that were replaced or dropped.
    """

    version: int
    added: int
    removed: int


def shard_path(drop: str, work_key: str) -> str:
    """Returns the path of a shard's file in a table."""
    return f"drop={drop}/{work_key}.parquet"


class ProtectedTable:
    """A Delta table of protected photos or of receipts, partitioned by drop."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.url = storage.url

    def exists(self) -> bool:
        """Returns whether the table has a first commit."""
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self.url, storage_options=storage_options(self.url)))

    def live_files(self, drop: str) -> dict[str, ShardFile]:
        """Returns the drop's shard files by path; empty if the table or the drop does not exist."""
        return _live_files(self._open(), drop) if self.exists() else {}

    def drops(self) -> list[str]:
        """Returns the names of the drops with live rows, sorted."""
        if not self.exists():
            return []
        actions = pa.table(self._open().get_add_actions(flatten=True))
        return sorted(set(actions.column("partition.drop").to_pylist()))

    def schema(self) -> pa.Schema | None:
        """Returns the table's schema, or None if there is no table."""
        return pa.schema(self._open().schema().to_arrow()) if self.exists() else None

    def version(self) -> int:
        """Returns the version of the last commit; -1 if there is none."""
        return int(self._open().version()) if self.exists() else -1

    def history(self) -> list[dict[str, Any]]:
        """Returns the commits, newest first, with the drop, defender and policy that each was made for."""
        return list(self._open().history()) if self.exists() else []

    def commit_drop(
        self, drop: str, files: Sequence[ShardFile], schema: pa.Schema, metadata: dict[str, str]
    ) -> CommitResult:
        """Makes `files` the content of the drop; commits the difference, and nothing if there is none.

        Args:
            drop: the partition.
            files: all shard files of the drop, already written.
            schema: of the files, with the column `drop`.
            metadata: recorded with the commit, such as the defender's digest.

        Raises:
            ValueError: if a column of `schema` has another type in the table.
            ConflictingCommit: if another writer's plan of this drop got in between, or the result does not add up.
        """
        from deltalake.exceptions import CommitFailedError

        check_drop_name(drop)
        planned = {file.path: file for file in files}
        basis: set[str] | None = None
        for attempt in range(ATTEMPTS):
            try:
                self._create(schema)
                self._adopt(self._open(), schema)
                table = self._open()
                live = _live_files(table, drop)
                if basis is not None and set(live) not in (basis, set(planned)):
                    raise ConflictingCommit(
                        f"another run committed drop {drop!r} with another plan: run again to plan on top of it"
                    )
                basis = set(live)
                crash_point("before_commit")
                result, number = _commit_difference(table, drop, live, planned, metadata)
                crash_point("after_commit")
            except CommitFailedError as error:
                if attempt + 1 == ATTEMPTS:
                    raise ConflictingCommit(
                        f"drop {drop!r} could not be committed in {ATTEMPTS} attempts, others were always faster: "
                        "run again"
                    ) from error
                time.sleep(min(0.05 * 2**attempt, 2) * random.uniform(0.5, 1.5))
                continue
            return result if number is None else self._checked(drop, planned, number, result)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def read(self, drop: str, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of a drop's live rows; a column that no shard has is null.

        The files are read one by one, so `columns` without the image cost no image bytes.
        """
        schema = self.schema()
        if schema is None:
            return pa.table({})
        parts = list(self.iter_batches(drop, columns))
        wanted = pa.schema([schema.field(name).with_nullable(True) for name in columns])
        return pa.Table.from_batches(parts, wanted)

    def iter_batches(self, drop: str, columns: Sequence[str], rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Yields some columns of a drop's live rows, at most `rows` at a time; shards in the order of their paths.

        Raises:
            ValueError: if the table has no such column.
        """
        if not self.exists():
            return
        table = self._open()
        schema = pa.schema(table.schema().to_arrow())
        unknown = sorted(set(columns) - set(schema.names))
        if unknown:
            raise ValueError(f"the table {self.url} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
        wanted = pa.schema([schema.field(name) for name in columns])
        for path in sorted(_live_files(table, drop)):
            with self.storage.open(path) as file:
                parquet = open_parquet(file)
                there = [name for name in columns if name in parquet.schema_arrow.names]
                if not there:  # nothing but the number of rows is in the file
                    count = parquet.metadata.num_rows
                    yield from conform(pa.table({"": pa.nulls(count)}), wanted, drop).to_batches(max_chunksize=rows)
                    continue
                for batch in parquet.iter_batches(batch_size=rows, columns=there, use_threads=False):
                    yield from conform(pa.Table.from_batches([batch]), wanted, drop).to_batches()

    def iter_records(self, drop: str, kind: type[Record], rows: int = 4096) -> Iterator[Record]:
        """Yields a drop's live rows as records of some columns of a receipt; those of `rows` rows are held at once."""
        schema = self.schema()
        columns = [name for name in columns_of(kind) if schema is not None and name in schema.names]
        for batch in self.iter_batches(drop, columns, rows):
            yield from read_records(kind, batch)

    def shard_records(self, path: str, kind: type[Record]) -> list[Record]:
        """Returns the rows of one shard file as records of some columns of a receipt."""
        with self.storage.open(path) as file:
            parquet = open_parquet(file)
            columns = [name for name in columns_of(kind) if name in parquet.schema_arrow.names]
            return list(read_records(kind, parquet.read(columns=columns, use_threads=False)))

    def shard_keys(self, path: str) -> list[str]:
        """Returns the keys of one shard file's rows."""
        with self.storage.open(path) as file:
            keys: list[str] = open_parquet(file).read(columns=["key"], use_threads=False).column("key").to_pylist()
        return keys

    def vacuum(self, keep_hours: float, *, dry_run: bool) -> list[str]:
        """Deletes shard files that are not current, and returns their paths.

        Args:
            keep_hours: files that were replaced, or written without a commit, less than so long ago stay.
            dry_run: only list them.
        """
        from deltalake import PostCommitHookProperties

        removed: list[str] = self._open().vacuum(
            retention_hours=math.ceil(keep_hours),
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=True,
            post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
        )
        return removed

    def _create(self, schema: pa.Schema) -> None:
        """Makes the table if there is none; another writer may do so meanwhile, which is a CommitFailedError."""
        from deltalake import DeltaTable

        if self.exists():
            return
        if not self.storage.is_s3:
            Path(self.url).mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            self.url,
            schema=schema,
            mode="ignore",
            partition_by=["drop"],
            configuration={"delta.dataSkippingStatsColumns": STATISTICS_COLUMNS},
            storage_options=storage_options(self.url),
        )

    def _adopt(self, table: Any, schema: pa.Schema) -> None:
        """Adds columns that the table lacks; a column of another type is refused.

        Another writer may add the same column meanwhile: that is a CommitFailedError, after which it is there.
        """
        from deltalake import Schema

        wanted = Schema.from_arrow(pa.schema([field.with_nullable(True) for field in schema]))
        have = {field.name: field.type for field in table.schema().fields}
        for field in wanted.fields:
            if field.name in have and _plain(have[field.name]) != _plain(field.type):
                raise ValueError(
                    f"column {field.name!r} is {schema.field(field.name).type} here and {_plain(have[field.name])} in "
                    f"the table {self.url}: rename it in the source, or use another target"
                )
        missing = [field for field in wanted.fields if field.name not in have]
        if missing:
            table.alter.add_columns(missing)

    def _checked(self, drop: str, planned: dict[str, ShardFile], number: int, result: CommitResult) -> CommitResult:
        """Holds the drop's live rows against the plan, after a commit with a transaction number."""
        table = self._open()
        live = _live_files(table, drop)
        if set(live) != set(planned) and (table.transaction_version(f"drop:{drop}") or 0) > number:
            raise ConflictingCommit(f"another run replaced drop {drop!r} right after this one committed it")
        rows, expected = sum(file.rows for file in live.values()), sum(file.rows for file in planned.values())
        if set(live) != set(planned) or rows != expected:
            raise ConflictingCommit(
                f"drop {drop!r} has {rows} rows after its commit where {expected} were planned: run again"
            )
        return CommitResult(int(table.version()), result.added, result.removed)

    def _open(self) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(self.url, storage_options=storage_options(self.url))


def storage_options(url: str) -> dict[str, str] | None:
    """Options of the table library for S3: conditional commits, and what the environment says of the endpoint."""
    if not url.startswith("s3://"):
        return None
    endpoint = s3_endpoint()
    options = {"aws_conditional_put": "etag"}
    if endpoint:
        options["aws_endpoint"] = endpoint
        options["aws_allow_http"] = "true" if endpoint.startswith("http://") else "false"
    if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        options["aws_region"] = "us-east-1"
    return options


def conform(table: pa.Table, schema: pa.Schema, drop: str) -> pa.Table:
    """Returns the columns of `schema`: those of the file, the drop, and nulls for what it lacks."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        elif field.name == "drop":
            columns.append(pa.array([drop] * table.num_rows, field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))


def _commit_difference(
    table: Any, drop: str, live: dict[str, ShardFile], planned: dict[str, ShardFile], metadata: dict[str, str]
) -> tuple[CommitResult, int | None]:
    """Commits what a drop lacks and what it has too much; returns the transaction number too, None if it was equal."""
    from deltalake import CommitProperties, PostCommitHookProperties, Transaction
    from deltalake.transaction import AddAction, RemoveAction

    added = [file for path, file in planned.items() if path not in live]
    removed = [file for path, file in live.items() if path not in planned]
    if not added and not removed:
        return CommitResult(int(table.version()), 0, 0), None
    now = int(time.time() * 1000)
    actions: list[Any] = [
        AddAction(file.path, file.size, {"drop": drop}, now, True, json.dumps({"numRecords": file.rows}))
        for file in added
    ]
    actions += [RemoveAction(file.path, True, now, file.size, {"drop": drop}) for file in removed]
    number = (table.transaction_version(f"drop:{drop}") or 0) + 1
    table.create_write_transaction(
        actions,
        "append",
        table.schema(),
        ["drop"],
        commit_properties=CommitProperties(
            custom_metadata={"drop": drop, **metadata}, app_transactions=[Transaction(f"drop:{drop}", number)]
        ),
        # History answers which defender protected a photo: no old log entry is removed.
        post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
    )
    return CommitResult(int(table.version()) + 1, len(added), len(removed)), number


def _live_files(table: Any, drop: str) -> dict[str, ShardFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [actions.column(name) for name in ("path", "size_bytes", "num_records", "partition.drop")]
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return {path: ShardFile(path, size, count) for path, size, count, owner in rows if owner == drop}


def _plain(kind: Any) -> str:
    """A type of the table format without what does not matter to it: whether parts of it may be null."""
    from deltalake.schema import ArrayType, MapType, StructType

    if isinstance(kind, ArrayType):
        return f"list<{_plain(kind.element_type)}>"
    if isinstance(kind, MapType):
        return f"map<{_plain(kind.key_type)}, {_plain(kind.value_type)}>"
    if isinstance(kind, StructType):
        return f"struct<{', '.join(f'{field.name}: {_plain(field.type)}' for field in kind.fields)}>"
    return str(kind.type)

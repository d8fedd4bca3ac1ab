"""The Delta table of a target: which shard files make up each drop.

Workers write shard files; `commit_drop` makes them the drop's content in one transaction. A reader sees a drop whole
or not at all. Nothing is deleted from storage: replaced files stay until an operator vacuums the table.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from resources.schemas import check_drop_name
from resources.storage import Storage

ATTEMPTS = 8
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
    """What a commit did.

    Attributes:
        version: of the table afterwards.
        added: shard files that are new.
        removed: shard files that were replaced or dropped.
    """

    version: int
    added: int
    removed: int


def shard_path(drop: str, work_key: str) -> str:
    """Where a shard's file lies in a table."""
    return f"drop={drop}/{work_key}.parquet"


class ProtectedTable:
    """A Delta table of protected photos or of receipts, partitioned by drop."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.url = self.storage.url

    def exists(self) -> bool:
        """Whether the table has a first commit."""
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
        from deltalake import CommitProperties, PostCommitHookProperties, Transaction
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import AddAction, RemoveAction

        check_drop_name(drop)
        planned = {file.path: file for file in files}
        self._create(schema)
        basis: set[str] | None = None
        for attempt in range(ATTEMPTS):
            table = self._open()
            self._check_schema(table, schema)
            live = _live_files(table, drop)
            if basis is not None and set(live) != basis and set(live) != set(planned):
                raise ConflictingCommit(
                    f"another run committed drop {drop!r} with another plan: run again to plan on top of it"
                )
            basis = set(live)
            added = [file for path, file in planned.items() if path not in live]
            removed = [file for path, file in live.items() if path not in planned]
            if not added and not removed:
                return CommitResult(int(table.version()), 0, 0)
            now = int(time.time() * 1000)
            actions = [
                AddAction(f.path, f.size, {"drop": drop}, now, True, json.dumps({"numRecords": f.rows})) for f in added
            ]
            actions += [RemoveAction(f.path, True, now, f.size, {"drop": drop}) for f in removed]
            # The number makes a second writer fail who starts from the same snapshot, even on a drop's first commit;
            # other drops are not blocked.
            transaction = Transaction(f"drop:{drop}", (table.transaction_version(f"drop:{drop}") or 0) + 1)
            try:
                table.create_write_transaction(
                    actions,
                    "append",
                    table.schema(),
                    ["drop"],
                    commit_properties=CommitProperties(
                        custom_metadata={"drop": drop, **metadata}, max_commit_retries=0, app_transactions=[transaction]
                    ),
                    post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
                )
            except CommitFailedError as error:
                if attempt + 1 == ATTEMPTS:
                    raise ConflictingCommit(
                        f"drop {drop!r} could not be committed after {ATTEMPTS} attempts"
                    ) from error
                time.sleep(0.05 * 2**attempt * random.uniform(0.5, 1.5))
                continue
            self._check_rows(drop, planned)
            return CommitResult(self.version(), len(added), len(removed))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def read(self, drop: str, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of a drop's live rows; a column that no shard has is null.

        The files are read one by one, so `columns` without the image cost no image bytes.
        """
        schema = self.schema()
        if schema is None:
            return pa.table({})
        wanted = pa.schema([schema.field(name) for name in columns])
        parts = []
        for path in sorted(self.live_files(drop)):
            with self.storage.open(path) as file:
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                there = [name for name in columns if name in parquet.schema_arrow.names]
                part = parquet.read(columns=there, use_threads=False)
            parts.append(conform(part, wanted, drop))
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def read_shard(self, path: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """Returns some columns of one shard file, as one tuple a row."""
        with self.storage.open(path) as file:
            rows = pq.ParquetFile(file, page_checksum_verification=True).read(columns=list(columns), use_threads=False)
        return list(zip(*(rows.column(name).to_pylist() for name in columns), strict=True))

    def _create(self, schema: pa.Schema) -> None:
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

    def _check_schema(self, table: Any, schema: pa.Schema) -> None:
        """Adds columns that the table lacks; a column of another type is refused."""
        have = pa.schema(table.schema().to_arrow())
        for field in schema:
            if field.name in have.names and not _same_type(have.field(field.name).type, field.type):
                raise ValueError(
                    f"column {field.name!r} is {field.type} here and {have.field(field.name).type} in the table "
                    f"{self.url}: rename it in the source, or use another target"
                )
        missing = [field.with_nullable(True) for field in schema if field.name not in have.names]
        if missing:
            from deltalake import Schema

            table.alter.add_columns(list(Schema.from_arrow(pa.schema(missing)).fields))

    def _check_rows(self, drop: str, planned: dict[str, ShardFile]) -> None:
        live = self.live_files(drop)
        rows, expected = sum(f.rows for f in live.values()), sum(f.rows for f in planned.values())
        if set(live) != set(planned) or rows != expected:
            raise ConflictingCommit(
                f"drop {drop!r} has {rows} rows after its commit where {expected} were planned: run again"
            )

    def _open(self) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(self.url, storage_options=storage_options(self.url))


def storage_options(url: str) -> dict[str, str] | None:
    """Options of the table library for S3: conditional commits, and what the environment says of the endpoint."""
    if not url.startswith("s3://"):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
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


def _live_files(table: Any, drop: str) -> dict[str, ShardFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
    rows = zip(
        *(actions.column(name).to_pylist() for name in ("path", "size_bytes", "num_records", "partition.drop")),
        strict=True,
    )
    return {path: ShardFile(path, size, count) for path, size, count, owner in rows if owner == drop}


def _same_type(first: pa.DataType, second: pa.DataType) -> bool:
    """Whether the table format writes both types alike (views and large variants are the same to it)."""
    return _plain(first) == _plain(second)


def _plain(kind: pa.DataType) -> str:
    text = str(kind).replace("large_", "").replace("_view", "").replace("element:", "item:").replace(" not null", "")
    return "string" if text.startswith("dictionary") else text

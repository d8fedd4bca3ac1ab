"""Protects one shard: what a Dask worker runs. Strings and numbers in, a small receipt out.

These functions know neither Dask nor Dagster. The shard's file appears whole and is named by the shard's work key, so
a finished shard is recognised and racing workers are harmless.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from assets.drop_plan import read_shard_rows
from assets.source_photos import InputChanged, SourcePhoto, read_photos
from models.engines import OnnxEngine
from models.photos import PhotoRefused
from models.policy import ProtectionPolicy
from models.protector import BudgetBroken, Protector, ZeroPerturbation
from resources.commits import shard_path
from resources.defender_registry import DefenderCorrupt, fetch_defender
from resources.schemas import IMAGE, RECEIPTS, Reason, Status
from resources.storage import Storage

CODE_EPOCH = 1  # raised when the output bytes of an unchanged photo change on purpose
ROW_GROUP_PHOTOS = 64
READ_AHEAD = 2  # photos read while one is being protected
WRITE_BEHIND = 4  # photos being written while one is being protected

TargetKind = Literal["files", "table"]
Item = TypeVar("Item")
log = logging.getLogger(__name__)

# What no single photo can cause: the run stops instead of quarantining everything.
FATAL = (InputChanged, ZeroPerturbation, BudgetBroken, DefenderCorrupt)


@dataclass(frozen=True)
class ShardTask:
    """One shard to protect.

    Attributes:
        drop: the drop's name.
        catalog_url: the drop's catalog.
        row_group: the shard's row group in it.
        work_key: names the work; see `assets.drop_plan.work_key`.
        generation: 0, or a higher number when the same work is done again (a retry, or outputs that were lost).
        target_url: where protected photos go.
        receipts_url: the table that the shard's file belongs to; equal to `target_url` for table targets.
        target_kind: "files" writes photos under their own names, "table" puts them into the shard's file.
        layout: "files", or the Parquet layout: "image", "content", "uri".
        passthrough: the serialised schema of the pass-through columns, hexadecimal.
        defender_url: the defender's folder.
        defender_digest: its digest.
        onnx_file: name of its ONNX file.
        onnx_sha256: sha256 of that.
        policy_json: the policy.
        budget_levels: the budget, in 8-bit levels.
        killed: rows of the shard that killed a worker; they are quarantined without another try.
    """

    drop: str
    catalog_url: str
    row_group: int
    work_key: str
    generation: int
    target_url: str
    receipts_url: str
    target_kind: TargetKind
    layout: str
    passthrough: str
    defender_url: str
    defender_digest: str
    onnx_file: str
    onnx_sha256: str
    policy_json: str
    budget_levels: int
    killed: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Where the shard's file lies in the receipts table."""
        suffix = f"-{self.generation}" if self.generation else ""
        return shard_path(self.drop, f"{self.work_key}{suffix}")


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    Attributes:
        path: its file.
        size: bytes of its file.
        photos: number of rows.
        outcomes: rows by status, and by "status:reason" where there is one.
        written: whether this task wrote the file; False if the shard was finished already.
        computed: photos that were protected by this task.
    """

    path: str
    size: int
    photos: int
    outcomes: dict[str, int] = field(hash=False)
    written: bool
    computed: int


@dataclass(frozen=True)
class ProbeTask:
    """One row of a shard, to be tried alone after a worker died on the shard."""

    shard: ShardTask
    row: int


def protect_shard(task: ShardTask) -> ShardResult:
    """Protects the photos of a shard, unless that is done already.

    Raises:
        InputChanged: if a photo is not what the catalog says.
        DefenderCorrupt: if the defender's file is not the one that was planned.
        ZeroPerturbation: if the defender does nothing.
        OSError: for faults of the storage.
    """
    receipts = Storage(task.receipts_url)
    finished = _finished(task, receipts)
    if finished is not None:
        return finished
    outcomes: Counter[str] = Counter()
    computed = 0
    schema = shard_schema(task)
    with tempfile.TemporaryDirectory() as folder, Outputs(task) as outputs:
        local = Path(folder) / "shard.parquet"
        with _writer(local, schema) as writer:
            pending: list[dict[str, Any]] = []
            for photo in read_ahead(read_photos(_rows(task))):
                row = protect_row(task, photo, outputs)
                computed += row["status"] == Status.PROTECTED
                outcomes.update(_outcome_names(row))
                pending.append(row)
                if len(pending) == ROW_GROUP_PHOTOS:
                    _write_rows(writer, pending, schema)
                    pending = []
            if pending:
                _write_rows(writer, pending, schema)
        outputs.finish()
        receipts.write_file(task.path, local)
        size = local.stat().st_size
    photos = sum(count for name, count in outcomes.items() if ":" not in name)
    return ShardResult(task.path, size, photos, dict(outcomes), True, computed)


def probe_photo(task: ProbeTask) -> bool:
    """Protects one photo of a shard and throws the result away: whoever asks wants to know if a worker survives it."""
    rows = _rows(task.shard)
    for photo in read_photos([rows[task.row]]):
        if photo.data is not None:
            with contextlib.suppress(PhotoRefused):
                _protector(task.shard).protect(photo.data, photo.row["key"])
    return True


def protect_row(task: ShardTask, photo: SourcePhoto, outputs: Outputs) -> dict[str, Any]:
    """Protects one photo and returns its row: the pass-through columns, the receipt, and the image of a table."""
    row = _receipt(task, photo)
    data: bytes | None = None
    try:
        if photo.data is None:
            detail = photo.row["detail"] or "the photo's bytes cannot be had"
            raise PhotoRefused((photo.reason or Reason.UNREADABLE).value, detail)  # type: ignore[arg-type]
        protector = _protector(task)
        row["engine"] = protector.engine.name
        result = protector.protect(photo.data, photo.row["key"])
    except PhotoRefused as refusal:
        row |= {"status": Status.QUARANTINED.value, "reason": refusal.reason, "detail": refusal.detail}
    except (*FATAL, OSError):
        raise
    except Exception as error:
        log.exception("a photo of drop %s could not be protected", task.drop)
        detail = f"{type(error).__name__} in the protector"
        row |= {"status": Status.QUARANTINED.value, "reason": Reason.INTERNAL_ERROR.value, "detail": detail}
    else:
        data = result.data
        row |= {
            "status": Status.PROTECTED.value,
            "flags": list(result.flags),
            "format": result.format,
            "bytes_out": len(data),
            "output_sha256": hashlib.sha256(data).hexdigest(),
            "linf_levels": result.linf_levels,
            "survival_gain": result.survival_gain,
            "survival_cosine": result.survival_cosine,
            "psnr": result.psnr,
            "ssim": result.ssim,
        }
        if task.target_kind == "files":
            row["output_path"] = photo.row["key"]
            outputs.write(photo.row["key"], data)
    return row | _image_columns(task, photo, data)


def shard_schema(task: ShardTask) -> pa.Schema:
    """The columns of a shard's file; the drop is the table's partition and not among them."""
    receipt = [column for column in RECEIPTS if column.name != "drop"]
    if task.target_kind == "files":
        return pa.schema(receipt)
    passthrough = pa.ipc.read_schema(pa.BufferReader(bytes.fromhex(task.passthrough))) if task.passthrough else pa.schema([])
    photo = {
        "files": [pa.field("image", IMAGE)],
        "image": [pa.field("image", IMAGE)],
        "content": [pa.field("path", pa.string()), pa.field("content", pa.binary())],
        "uri": [pa.field("uri", pa.string()), pa.field("image", IMAGE)],
    }[task.layout]
    return pa.schema([*photo, *passthrough, *receipt], metadata=passthrough.metadata)


class Outputs:
    """Writes photos of a folder target in a thread of its own, a few at a time."""

    def __init__(self, task: ShardTask) -> None:
        self._storage = Storage(task.target_url)
        self._pool = ThreadPoolExecutor(1)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, path: str, data: bytes) -> None:
        """Starts writing a file; waits if too many are being written."""
        self._running.append(self._pool.submit(self._storage.write_bytes, path, data))
        if len(self._running) > WRITE_BEHIND:
            self._running.pop(0).result()

    def finish(self) -> None:
        """Waits until every file is written.

        Raises:
            OSError: if one could not be.
        """
        while self._running:
            self._running.pop(0).result()


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields items that a thread draws a few of in advance; its error is raised here."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(READ_AHEAD)
    stopped = threading.Event()

    def offer(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def draw() -> None:
        try:
            for item in items:
                offer(item)
                if stopped.is_set():
                    return
            offer(None)
        except BaseException as error:  # handed over to the thread that waits for it
            offer(error)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def outputs_are_there(target: Storage, receipts: pa.Table) -> bool:
    """Whether every photo that the receipts name is in the target with its recorded sha256."""
    names = (receipts.column(name).to_pylist() for name in ("output_path", "output_sha256"))
    for path, sha in zip(*names, strict=True):
        if path is None:
            continue
        try:
            if hashlib.sha256(target.read_bytes(path)).hexdigest() != sha:
                return False
        except FileNotFoundError:
            return False
    return True


def _rows(task: ShardTask) -> list[dict[str, Any]]:
    """The shard's catalog rows; those that killed a worker have that as their reason."""
    rows = read_shard_rows(task.catalog_url, task.row_group)
    for row in task.killed:
        rows[row] |= {"reason": Reason.WORKER_KILLED.value, "detail": "a worker died while it read or protected this photo"}
    return rows


def _finished(task: ShardTask, receipts: Storage) -> ShardResult | None:
    """The result of a shard whose file is there, if its outputs are too."""
    size = receipts.size(task.path)
    if size is None:
        return None
    columns = ["status", "reason", "output_path", "output_sha256"]
    with receipts.open(task.path) as file:
        rows = pq.ParquetFile(file, page_checksum_verification=True).read(columns=columns, use_threads=False)
    if task.target_kind == "files" and not outputs_are_there(Storage(task.target_url), rows):
        return None
    outcomes: Counter[str] = Counter()
    for row in rows.select(["status", "reason"]).to_pylist():
        outcomes.update(_outcome_names(row))
    return ShardResult(task.path, size, rows.num_rows, dict(outcomes), False, 0)


def _outcome_names(row: dict[str, Any]) -> list[str]:
    return [row["status"], f"{row['status']}:{row['reason']}"] if row["reason"] else [row["status"]]


def _receipt(task: ShardTask, photo: SourcePhoto) -> dict[str, Any]:
    row = photo.row
    return dict.fromkeys(RECEIPTS.names) | {
        "key": row["key"],
        "flags": [],
        "source_uri": row["source_uri"],
        "format": row["format"],
        "bytes_in": row["bytes_in"],
        "input_sha256": row["input_sha256"],
        "work_key": task.work_key,
        "defender_digest": task.defender_digest,
        "policy_digest": ProtectionPolicy.from_json(task.policy_json).digest(),
        "engine": "none",
        "budget_levels": task.budget_levels,
    }


def _image_columns(task: ShardTask, photo: SourcePhoto, data: bytes | None) -> dict[str, Any]:
    """The photo columns of a table row; a quarantined photo has no image."""
    if task.target_kind == "files":
        return {}
    columns = photo.columns.to_pylist()[0] if photo.columns is not None else {}
    key = photo.row["key"]
    image = {"bytes": data, "path": key} if data is not None else None
    if task.layout == "content":
        return columns | {"path": key, "content": data}
    if task.layout == "uri":
        return columns | {"uri": key, "image": image}
    return columns | {"image": image}


@lru_cache(maxsize=2)
def _engine(url: str, digest: str, name: str, sha256: str) -> OnnxEngine:
    """The defender's session: one a worker process, keyed by its digest."""
    return OnnxEngine(fetch_defender(url, digest, {name: sha256})[name])


@lru_cache(maxsize=4)
def _protector_of(engine: OnnxEngine, policy_json: str, budget_levels: int) -> Protector:
    return Protector(engine, ProtectionPolicy.from_json(policy_json), budget_levels)


def _protector(task: ShardTask) -> Protector:
    engine = _engine(task.defender_url, task.defender_digest, task.onnx_file, task.onnx_sha256)
    return _protector_of(engine, task.policy_json, task.budget_levels)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Photos do not compress: no compression and no statistics for them; page checksums for `verify`."""
    light = [name for name in ("key", "status", "reason", "output_sha256", "input_sha256") if name in schema.names]
    return pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_statistics=light, write_page_checksum=True
    )


def _write_rows(writer: pq.ParquetWriter, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=ROW_GROUP_PHOTOS)

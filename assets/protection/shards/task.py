"""Protects one shard: what a Dask worker runs. Strings and numbers in, a small receipt out.

These functions know neither Dask nor Dagster. The shard's file appears whole and is named by what decides its content,
so a finished shard is recognised and racing workers are harmless.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rid.assets.catalog.plan import read_shard_rows
from rid.assets.catalog.sidecars import SIDECAR_LEFT_OUT, WrittenSidecar, clean_sidecars
from rid.assets.catalog.sources import InputChanged, SourcePhoto, read_photos
from rid.assets.protection.shards.carried_rows import CarriedRows, image_bytes, is_published
from rid.assets.protection.shards.files import ShardWriter, TargetKind, photo_columns, shard_schema
from rid.assets.protection.shards.names import shard_file
from rid.assets.protection.shards.outcomes import outcome_names
from rid.assets.protection.shards.overlap import WriteBehind, ordered_map, read_ahead
from rid.assets.protection.shards.protectors import DefenderFile, worker_protector
from rid.models.guarded_protector import GuardedProtector, ProtectorFault, ProtectorUnavailable
from rid.models.photo_files.marks import AlreadyProtected
from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import ProtectionPolicy
from rid.models.protector import BudgetBroken, ProtectedPhoto, Protector, ZeroPerturbation
from rid.models.protector_process import place_of
from rid.resources.catalogs import open_parquet
from rid.resources.crash_points import crash_point
from rid.resources.defender_files import DefenderCorrupt
from rid.resources.schemas import RECEIPTS, Reason, Status
from rid.resources.storage import Storage

CODE_EPOCH = 2  # raised when the output bytes of an unchanged photo change on purpose
GPU_THREADS = 4  # photos decoded and encoded at a time beside a GPU; a CPU worker has one core
KILLED = "a worker died while it read or protected this photo"

log = logging.getLogger(__name__)

# What no single photo can cause: the run stops instead of quarantining everything.
FATAL = (InputChanged, ZeroPerturbation, DefenderCorrupt, ProtectorUnavailable)


@dataclass(frozen=True)
class ShardTask:
    """One shard to protect.

    Attributes:
        drop: the drop's name.
        catalog_url: the drop's catalog.
        shard: its number in it.
        work_key: names the work; see `rid.assets.catalog.plan.work_key`.
        salt: what decides the output beside the photos.
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
        generation: 0, or higher when the same work had another result before.
        again: do the work although its file is there: outputs were lost, or quarantined photos are tried again. A
            result that differs is written as the next generation.
        earlier: shard files of the drop whose rows may be carried over.
        killed: rows of the shard that killed a worker; they are quarantined without another try.
        known: rows of the shard that came with a mark that a receipt bears out.
        retry: reasons whose photos are not carried over but tried again.
        allowed_prefixes: where photos that a `uri` column names may lie.
        guarded: protect photos in a child process, under the policy's deadline and limit of memory.
    """

    drop: str
    catalog_url: str
    shard: int
    work_key: str
    salt: str
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
    generation: int = 0
    again: bool = False
    earlier: tuple[str, ...] = ()
    killed: tuple[int, ...] = ()
    known: tuple[int, ...] = ()
    retry: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()
    guarded: bool = False

    def path(self, generation: int | None = None) -> str:
        """Where the shard's file of a generation, by default the task's own, lies in the receipts table."""
        number = self.generation if generation is None else generation
        return shard_file(self.drop, self.work_key, known=self.known, killed=self.killed, generation=number)


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    Attributes:
        path: its file.
        size: bytes of its file.
        photos: number of rows.
        outcomes: rows by `rid.assets.protection.shards.outcomes.outcome_names`.
        written: whether this task wrote the file; False if it was there already.
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
    finished = None if task.again else _finished(task, receipts)
    if finished is not None:
        return finished
    outcomes: Counter[str] = Counter()
    computed = 0
    schema = shard_schema(task.target_kind, task.layout, task.passthrough, task.salt)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "shard.parquet"
        with WriteBehind(Storage(task.target_url)) as outputs, ShardWriter(local, schema) as writer:
            for done in _protected_rows(task):
                if done.data is not None and task.target_kind == "files":
                    outputs.write(done.row["output_path"], done.data)
                for sidecar in done.sidecars:
                    outputs.write(sidecar.path, sidecar.data)
                computed += done.data is not None and done.row["status"] == Status.PROTECTED
                outcomes.update(outcome_names(done.row))
                writer.write(done.row)
            outputs.finish()
        crash_point("before_write")
        path, written = _publish(task, receipts, local)
        crash_point("after_write")
        size = local.stat().st_size
    photos = sum(count for name, count in outcomes.items() if ":" not in name)
    return ShardResult(path, size, photos, dict(outcomes), written, computed)


def probe_photo(task: ProbeTask) -> bool:
    """Protects one photo of a shard and throws the result away: whoever asks wants to know if a worker survives it."""
    rows = _rows(task.shard)
    for photo in read_photos([rows[task.row]], task.shard.allowed_prefixes):
        if photo.data is not None:
            with contextlib.suppress(PhotoRefused):
                protector_of(task.shard).protect(photo.data, photo.row["key"])
    return True


@dataclass(frozen=True)
class DoneRow:
    """A row of the shard's file, the photo's bytes if they are not carried over, and its sidecars."""

    row: dict[str, Any]
    data: bytes | None
    sidecars: tuple[WrittenSidecar, ...] = ()


def protect_photo(task: ShardTask, photo: SourcePhoto) -> DoneRow:
    """Protects one photo; whatever only this photo can cause becomes a quarantined row."""
    row = _receipt(task, photo)
    data: bytes | None = None
    protector = protector_of(task) if photo.data is not None else None  # faults of the storage are not the photo's
    try:
        if photo.data is None or protector is None:
            detail = photo.row["detail"] or "the photo's bytes cannot be had"
            raise PhotoRefused((photo.reason or Reason.UNREADABLE).value, detail)  # type: ignore[arg-type]
        row["engine"] = protector.engine.name
        result = protector.protect(photo.data, photo.row["key"], known_mark=photo.row["known_mark"] is not None)
    except PhotoRefused as refusal:
        row |= {"status": Status.QUARANTINED.value, "reason": refusal.reason, "detail": refusal.detail}
    except AlreadyProtected as held:
        data = photo.data
        row |= _skipped(held, photo)
    except FATAL:
        raise
    except BudgetBroken as error:
        row |= {"status": Status.QUARANTINED.value, "reason": Reason.INTERNAL_ERROR.value, "detail": str(error)}
    except MemoryError:
        detail = "there was not enough memory to protect it"
        row |= {"status": Status.QUARANTINED.value, "reason": Reason.OUT_OF_MEMORY.value, "detail": detail}
    except Exception as error:
        kind = error.kind if isinstance(error, ProtectorFault) else type(error).__name__
        place = error if isinstance(error, ProtectorFault) else f"{kind} at {place_of(error)}"
        log.error("a photo of drop %s could not be protected: %s", task.drop, place)
        detail = f"{kind} in the protector"
        row |= {"status": Status.QUARANTINED.value, "reason": Reason.INTERNAL_ERROR.value, "detail": detail}
    else:
        data = result.data
        row |= _measured(result)
    if data is not None and task.target_kind == "files":
        row["output_path"] = photo.row["key"]
    return DoneRow(row | photo_columns(photo, task.target_kind, task.layout, data), data)


def protector_of(task: ShardTask) -> Protector | GuardedProtector:
    """The task's protector; its session is opened once a worker process, or once a child of it.

    Raises:
        DefenderCorrupt: if the defender's file is not the one that was planned.
    """
    file = DefenderFile(task.defender_url, task.defender_digest, task.onnx_file, task.onnx_sha256)
    return worker_protector(file, task.policy_json, task.budget_levels, guarded=task.guarded)


def _protected_rows(task: ShardTask) -> Iterator[DoneRow]:
    """Yields the shard's rows in the catalog's order: carried over where that is possible, else protected."""
    carried = CarriedRows(Storage(task.receipts_url), task.earlier, task.salt, task.retry)
    target = Storage(task.target_url)

    def done(photo: SourcePhoto) -> DoneRow:
        crash_point("after_read")
        found = carried.find(photo.row["key"], photo.row["input_sha256"]) if task.earlier else None
        decided_again = photo.row["mark"] is not None and Reason.ALREADY_PROTECTED in task.retry
        if found is None or decided_again or photo.row["reason"] is not None:
            return protect_photo(task, photo)
        if found["status"] == Status.QUARANTINED:  # for a reason that is not tried again
            return DoneRow(found, None) if found["work_key"] == task.work_key else protect_photo(task, photo)
        if task.target_kind == "files":
            return (
                DoneRow(found | {"work_key": task.work_key}, None)
                if is_published(target, found)
                else protect_photo(task, photo)
            )
        data = image_bytes(found)
        if data is None or hashlib.sha256(data).hexdigest() != found["output_sha256"]:
            return protect_photo(task, photo)
        receipt = found | {"work_key": task.work_key, "source_uri": photo.row["source_uri"]}
        return DoneRow(receipt | photo_columns(photo, task.target_kind, task.layout, data), None)

    def with_sidecars(photo: SourcePhoto) -> DoneRow:
        return _with_sidecars(done(photo), photo.row) if task.target_kind == "files" else done(photo)

    threads = GPU_THREADS if "CUDA" in protector_of(task).engine.name else 1
    yield from ordered_map(with_sidecars, read_ahead(read_photos(_rows(task), task.allowed_prefixes)), threads)


def _with_sidecars(done: DoneRow, photo_row: dict[str, Any]) -> DoneRow:
    """Adds the sidecars of a photo that is published."""
    if done.row["output_path"] is None:
        return done
    found = list(clean_sidecars(photo_row))
    written = tuple(one for one in found if isinstance(one, WrittenSidecar))
    flags = [flag for flag in done.row["flags"] if flag != SIDECAR_LEFT_OUT]
    flags += [one for one in found if isinstance(one, str)]
    row = {"flags": list(dict.fromkeys(flags)), "sidecars": [one.receipt() for one in written] or None}
    return DoneRow(done.row | row, done.data, written)


def _publish(task: ShardTask, receipts: Storage, local: Path) -> tuple[str, bool]:
    """Puts the shard's file in its place; the same work with the same result is left as it is."""
    if not task.again:
        receipts.write_file(task.path(), local)
        return task.path(), True
    if receipts.size(task.path()) == local.stat().st_size and receipts.read_bytes(task.path()) == local.read_bytes():
        return task.path(), False
    path = task.path(task.generation + 1)
    receipts.write_file(path, local)
    return path, True


def _rows(task: ShardTask) -> list[dict[str, Any]]:
    """The shard's catalog rows, and for each what bears its mark out: "receipt", "trust" or nothing.

    Those that killed a worker have that as their reason.
    """
    rows = read_shard_rows(task.catalog_url, task.shard)
    trust = ProtectionPolicy.from_json(task.policy_json).trust_marks
    for i, row in enumerate(rows):
        trusted = "trust" if trust and row["mark"] is not None else None
        row["known_mark"] = "receipt" if i in task.known else trusted
    for number in task.killed:
        rows[number] |= {"reason": Reason.WORKER_KILLED.value, "detail": KILLED}
    return rows


def _finished(task: ShardTask, receipts: Storage) -> ShardResult | None:
    """The result of a shard whose file is there, if its outputs are too."""
    size = receipts.size(task.path())
    if size is None:
        return None
    columns = ["status", "reason", "output_path", "output_sha256", "sidecars"]
    with receipts.open(task.path()) as file:
        rows = open_parquet(file).read(columns=columns, use_threads=False).to_pylist()
    target = Storage(task.target_url)
    if task.target_kind == "files" and not all(is_published(target, row) for row in rows if row["output_path"]):
        return None
    outcomes: Counter[str] = Counter()
    for row in rows:
        outcomes.update(outcome_names(row))
    return ShardResult(task.path(), size, len(rows), dict(outcomes), False, 0)


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


def _skipped(held: AlreadyProtected, photo: SourcePhoto) -> dict[str, Any]:
    """The receipt of a photo that is carried along as it came."""
    assert photo.data is not None, "its mark was read in them"
    return {
        "status": Status.SKIPPED.value,
        "reason": Reason.ALREADY_PROTECTED.value,
        "detail": f"by defender {held.mark.defender_digest[:12]} at a budget of {held.mark.budget_levels} levels",
        "flags": ["mark_trusted"] if photo.row["known_mark"] == "trust" else [],
        "format": held.format,
        "bytes_out": len(photo.data),
        "output_sha256": photo.row["input_sha256"],
        "pixels_sha256": held.mark.pixels_sha256,
        "engine": "none",
    }


def _measured(result: ProtectedPhoto) -> dict[str, Any]:
    return {
        "status": Status.PROTECTED.value,
        "flags": list(result.flags),
        "format": result.format,
        "bytes_out": len(result.data),
        "output_sha256": hashlib.sha256(result.data).hexdigest(),
        "pixels_sha256": result.pixels_sha256,
        "linf_levels": result.linf_levels,
        "survival_gain": result.survival_gain,
        "survival_cosine": result.survival_cosine,
        "psnr": result.psnr,
        "ssim": result.ssim,
    }

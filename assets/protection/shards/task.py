"""Protects one shard: what a Dask worker runs. A small task in, a small result out.

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
from dataclasses import dataclass, replace
from pathlib import Path

from rid.assets.catalog.picture_columns import pictures_in
from rid.assets.catalog.plan import read_shard_rows
from rid.assets.catalog.sidecars import SIDECAR_LEFT_OUT, WrittenSidecar, clean_sidecars
from rid.assets.catalog.sources import InputChanged, SourcePhoto, read_photos
from rid.assets.protection.shards.carried_rows import CarriedRows, PublishedRow, is_published
from rid.assets.protection.shards.files import ShardRow, ShardWriter
from rid.assets.protection.shards.other_pictures import carry_pictures, protect_pictures
from rid.assets.protection.shards.outcomes import outcome_names
from rid.assets.protection.shards.overlap import WriteBehind, ordered_map, read_ahead
from rid.assets.protection.shards.protectors import worker_protector
from rid.assets.protection.shards.receipts import NO_ENGINE, held_back, protected, skipped
from rid.assets.protection.shards.work import DropWork, ProbeTask, ShardResult, ShardTask
from rid.models.guarded_protector import GuardedProtector, ProtectorFault, ProtectorUnavailable
from rid.models.photo_files.marks import AlreadyProtected
from rid.models.photo_files.photos import PhotoRefused
from rid.models.protector import BudgetBroken, Protector, ZeroPerturbation
from rid.models.protector_process import place_of
from rid.resources.commits import ProtectedTable
from rid.resources.crash_points import crash_point
from rid.resources.defender_files import DefenderCorrupt
from rid.resources.records import CatalogRow, Receipt
from rid.resources.schemas import Reason, Status

CODE_EPOCH = 2  # raised when the output bytes of an unchanged photo change on purpose
GPU_THREADS = 4  # photos decoded and encoded at a time beside a GPU; a CPU worker has one core
KILLED = "a worker died while it read or protected this photo"

log = logging.getLogger(__name__)

# What no single photo can cause: the run stops instead of quarantining everything.
FATAL = (InputChanged, ZeroPerturbation, DefenderCorrupt, ProtectorUnavailable)


def protect_shard(task: ShardTask) -> ShardResult:
    """Protects the photos of a shard, unless that is done already.

    Raises:
        InputChanged: if a photo is not what the catalog says.
        DefenderCorrupt: if the defender's file is not the one that was planned.
        ZeroPerturbation: if the defender does nothing.
        OSError: for faults of the storage.
    """
    drop = task.drop
    finished = None if task.work.again else _finished(task)
    if finished is not None:
        return finished
    outcomes: Counter[str] = Counter()
    computed = 0
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "shard.parquet"
        writer = ShardWriter(local, drop.columns, drop.columns.schema(drop.salt))
        with WriteBehind(drop.target) as outputs, writer:
            for done in _done_rows(task):
                receipt = done.row.receipt
                if done.data is not None and receipt.output_path is not None:
                    outputs.write(receipt.output_path, done.data)
                for sidecar in done.sidecars:
                    outputs.write(sidecar.path, sidecar.data)
                computed += done.data is not None and receipt.status == Status.PROTECTED
                outcomes.update(outcome_names(receipt.status, receipt.reason, len(receipt.sidecars)))
                writer.write(done.row)
            outputs.finish()
        crash_point("before_write")
        path, written = _publish(task, local)
        crash_point("after_write")
        size = local.stat().st_size
    photos = sum(count for name, count in outcomes.items() if ":" not in name)
    return ShardResult(path, size, photos, dict(outcomes), written, computed)


def probe_photo(task: ProbeTask) -> bool:
    """Protects one photo of a shard and throws the result away: whoever asks wants to know if a worker survives it."""
    drop, row = task.shard.drop, _rows(task.shard)[task.row]
    for photo in read_photos([row], drop.allowed_prefixes):
        beside = photo.columns.select(drop.columns.pictures).to_pylist()[0] if photo.columns is not None else {}
        pictures = [data for _, data in pictures_in(list(beside.values()))]
        for data in [photo.data, *pictures] if photo.data is not None else []:
            with contextlib.suppress(PhotoRefused):
                protector_of(drop).protect(data, row.key)
    return True


@dataclass(frozen=True)
class OpenShard:
    """A shard while its photos are protected, with what is looked up once for all of them.

    Attributes:
        task: what has to be done.
        rows: of the catalog, in its order; those that killed a worker have that as their reason.
        known: keys of photos whose mark a receipt bears out.
        policy_digest: of the policy.
        protector: of this process.
    """

    task: ShardTask
    rows: list[CatalogRow]
    known: frozenset[str]
    policy_digest: str
    protector: Protector | GuardedProtector

    @classmethod
    def of(cls, task: ShardTask) -> OpenShard:
        """Opens a shard.

        Raises:
            DefenderCorrupt: if the defender's file is not the one that was planned.
        """
        rows = _rows(task)
        known = frozenset(rows[number].key for number in task.known)
        return cls(task, rows, known, task.drop.policy.digest(), protector_of(task.drop))

    def receipt(self, row: CatalogRow, engine: str) -> Receipt:
        """Returns what is known of a photo before anything is published of it: it is held back so far."""
        return Receipt(
            key=row.key,
            drop=self.task.drop.name,
            status=Status.QUARANTINED.value,
            source_uri=row.source_uri,
            format=row.format,
            bytes_in=row.bytes_in,
            input_sha256=row.input_sha256,
            work_key=self.task.work_key,
            defender_digest=self.task.drop.defender.digest,
            policy_digest=self.policy_digest,
            engine=engine,
            budget_levels=self.task.drop.budget_levels,
        )


@dataclass(frozen=True)
class DoneRow:
    """A row of the shard's file, the photo's bytes if they are not carried over, and its sidecars."""

    row: ShardRow
    data: bytes | None
    sidecars: tuple[WrittenSidecar, ...] = ()


def protect_photo(shard: OpenShard, photo: SourcePhoto) -> DoneRow:
    """Protects one photo; whatever only this photo can cause becomes a quarantined row."""
    columns = shard.task.drop.columns
    receipt, data = _decide(shard, photo)
    if data is not None and columns.target_kind == "files":
        receipt = replace(receipt, output_path=photo.row.key)

    def protect(name: str, picture: bytes) -> tuple[Receipt, bytes | None]:
        trusted = shard.task.drop.policy.trust_marks
        return _protect(shard, photo.row, picture, name, known=False, trusted=trusted)

    row = protect_pictures(columns.row(receipt, photo, data), columns.pictures, protect)
    return DoneRow(row, data if row.receipt.output_sha256 is not None else None)


def _decide(shard: OpenShard, photo: SourcePhoto) -> tuple[Receipt, bytes | None]:
    """Returns a photo's receipt and what is published of it."""
    if photo.data is None:
        detail = photo.row.detail or "the photo's bytes cannot be had"
        return held_back(shard.receipt(photo.row, NO_ENGINE), photo.reason or Reason.UNREADABLE, detail), None
    known = photo.row.key in shard.known
    trusted = not known and photo.row.mark is not None and shard.task.drop.policy.trust_marks
    return _protect(shard, photo.row, photo.data, photo.row.key, known=known, trusted=trusted)


def _protect(
    shard: OpenShard, row: CatalogRow, data: bytes, name: str, *, known: bool, trusted: bool
) -> tuple[Receipt, bytes | None]:
    """Returns the receipt of a picture and what is published of it."""
    receipt = shard.receipt(row, shard.protector.engine.name)
    try:
        result = shard.protector.protect(data, name, known_mark=known or trusted)
    except PhotoRefused as refusal:
        return held_back(receipt, refusal.reason, refusal.detail), None
    except AlreadyProtected as held:
        return skipped(receipt, held, data, trusted=trusted), data
    except FATAL:
        raise
    except BudgetBroken as error:
        return held_back(receipt, Reason.INTERNAL_ERROR, str(error)), None
    except MemoryError:
        return held_back(receipt, Reason.OUT_OF_MEMORY, "there was not enough memory to protect it"), None
    except Exception as error:
        kind = error.kind if isinstance(error, ProtectorFault) else type(error).__name__
        place = error if isinstance(error, ProtectorFault) else f"{kind} at {place_of(error)}"
        log.error("a photo of drop %s could not be protected: %s", shard.task.drop.name, place)
        return held_back(receipt, Reason.INTERNAL_ERROR, f"{kind} in the protector"), None
    return protected(receipt, result), result.data


def protector_of(drop: DropWork) -> Protector | GuardedProtector:
    """The protector of a drop; its session is opened once a worker process, or once a child of it.

    Raises:
        DefenderCorrupt: if the defender's file is not the one that was planned.
    """
    return worker_protector(drop.defender, drop.policy, drop.budget_levels, guarded=drop.guarded)


def _done_rows(task: ShardTask) -> Iterator[DoneRow]:
    """Yields the shard's rows in the catalog's order: carried over where that is possible, else protected."""
    drop, shard = task.drop, OpenShard.of(task)
    carried = CarriedRows(
        drop.receipts, task.work.earlier, drop.salt, drop=drop.name, columns=drop.columns, retry=drop.retry
    )

    def done(photo: SourcePhoto) -> DoneRow:
        crash_point("after_read")
        found = _carried(shard, photo, carried.find(photo.row.key, photo.row.input_sha256))
        row = DoneRow(found, None) if found is not None else protect_photo(shard, photo)
        return _with_sidecars(row, photo.row) if drop.columns.target_kind == "files" else row

    threads = GPU_THREADS if "CUDA" in shard.protector.engine.name else 1
    yield from ordered_map(done, read_ahead(read_photos(shard.rows, drop.allowed_prefixes)), threads)


def _carried(shard: OpenShard, photo: SourcePhoto, found: ShardRow | None) -> ShardRow | None:
    """Returns a photo's earlier row as one of this shard, or None if it has to be done."""
    task, drop = shard.task, shard.task.drop
    decided_again = photo.row.mark is not None and Reason.ALREADY_PROTECTED in drop.retry
    if found is None or decided_again or photo.row.reason is not None:
        return None
    if found.receipt.status == Status.QUARANTINED:  # for a reason that is not tried again
        return found if found.receipt.work_key == task.work_key else None
    receipt = replace(found.receipt, work_key=task.work_key)
    if drop.columns.target_kind == "files":
        return replace(found, receipt=receipt) if is_published(drop.target, receipt) else None
    if found.image is None or hashlib.sha256(found.image).hexdigest() != receipt.output_sha256:
        return None
    row = drop.columns.row(replace(receipt, source_uri=photo.row.source_uri), photo, found.image)
    return carry_pictures(row, found, drop.columns.pictures)


def _with_sidecars(done: DoneRow, row: CatalogRow) -> DoneRow:
    """Adds the sidecars of a photo that is published."""
    receipt = done.row.receipt
    if receipt.output_path is None:
        return done
    found = list(clean_sidecars(row))
    written = tuple(one for one in found if isinstance(one, WrittenSidecar))
    flags = [flag for flag in receipt.flags if flag != SIDECAR_LEFT_OUT]
    flags += [one for one in found if isinstance(one, str)]
    receipt = replace(receipt, flags=tuple(dict.fromkeys(flags)), sidecars=tuple(one.receipt() for one in written))
    return DoneRow(replace(done.row, receipt=receipt), done.data, written)


def _publish(task: ShardTask, local: Path) -> tuple[str, bool]:
    """Puts the shard's file in its place; the same work with the same result is left as it is."""
    receipts = task.drop.receipts
    if not task.work.again:
        receipts.write_file(task.path(), local)
        return task.path(), True
    if receipts.size(task.path()) == local.stat().st_size and receipts.read_bytes(task.path()) == local.read_bytes():
        return task.path(), False
    path = task.path(task.work.generation + 1)
    receipts.write_file(path, local)
    return path, True


def _rows(task: ShardTask) -> list[CatalogRow]:
    """The shard's catalog rows; those that killed a worker have that as their reason."""
    rows = read_shard_rows(task.drop.catalog_url, task.work.shard.number)
    for number in task.killed:
        rows[number] = replace(rows[number], reason=Reason.WORKER_KILLED.value, detail=KILLED)
    return rows


def _finished(task: ShardTask) -> ShardResult | None:
    """The result of a shard whose file is there, if its outputs are too."""
    size = task.drop.receipts.size(task.path())
    if size is None:
        return None
    rows = ProtectedTable(task.drop.receipts).shard_records(task.path(), PublishedRow)
    if task.drop.columns.target_kind == "files" and not all(is_published(task.drop.target, row) for row in rows):
        return None
    outcomes = Counter(name for row in rows for name in outcome_names(row.status, row.reason, len(row.sidecars)))
    return ShardResult(task.path(), size, len(rows), dict(outcomes), False, 0)

"""The order for a shard and its answer, as they travel to a worker and back: small, picklable, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from rid.assets.catalog.plan import Shard
from rid.assets.protection.shards.files import ShardColumns
from rid.assets.protection.shards.names import shard_file
from rid.assets.protection.shards.protectors import DefenderFile
from rid.models.policy import ProtectionPolicy
from rid.resources.storage import Storage


@dataclass(frozen=True)
class DropWork:
    """The order that all shards of a drop share while a run protects it.

    Attributes:
        name: of the drop.
        catalog_url: the drop's catalog.
        target: where protected photos go.
        receipts: the table that shard files belong to; for table targets the target itself.
        columns: of a shard's file.
        defender: what protects.
        policy: the policy.
        budget_levels: the budget, in 8-bit levels.
        salt: what decides the output beside the photos.
        retry: reasons whose photos are not carried over but tried again.
        allowed_prefixes: where photos that a `uri` column names may lie.
        guarded: protect photos in a child process, under the policy's deadline and limit of memory.
    """

    name: str
    catalog_url: str
    target: Storage
    receipts: Storage
    columns: ShardColumns
    defender: DefenderFile
    policy: ProtectionPolicy
    budget_levels: int
    salt: str
    retry: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()
    guarded: bool = False


@dataclass(frozen=True)
class ShardWork:
    """One shard that has to be done.

    Attributes:
        shard: of the drop's catalog.
        generation: 0, or higher when the same work had another result before.
        again: do the work although its file is there: outputs were lost, or quarantined photos are tried again. A
            result that differs is written as the next generation.
        earlier: shard files of the drop whose rows may be carried over.
    """

    shard: Shard
    generation: int = 0
    again: bool = False
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardTask:
    """One shard to protect.

    Attributes:
        drop: what it has in common with the drop's other shards.
        work: what has to be done.
        known: rows of the shard that came with a mark that a receipt bears out.
        killed: rows of the shard that killed a worker; they are quarantined without another try.
    """

    drop: DropWork
    work: ShardWork
    known: tuple[int, ...] = ()
    killed: tuple[int, ...] = ()

    @property
    def work_key(self) -> str:
        """Names the work; see `rid.assets.catalog.plan.work_key`."""
        return self.work.shard.work_key

    def path(self, generation: int | None = None) -> str:
        """Returns the path of the shard's file in the receipts table; the generation is by default the task's own."""
        number = self.work.generation if generation is None else generation
        return shard_file(self.drop.name, self.work_key, known=self.known, killed=self.killed, generation=number)


@dataclass(frozen=True)
class ShardResult:
    """The outcome of a shard.

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

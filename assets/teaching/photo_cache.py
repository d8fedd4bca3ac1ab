"""Squares of catalogued photos, cut once by tasks and read as memory maps.

A drop's catalog is cut into runs of its shards; a task decodes one run. In `<home>/training/squares/<side>`:

- `<name>.npy`: (n, side, side, 3) uint8, the photos of a run that can be decoded, upright, in the catalog's order. It
  is written last: where it is, the run is finished. n follows from its size.
- `<name>.json`: which rows of the run those are, and each square's digest. It says nothing of keys or people.

The name is the sha256 of the photos' sha256s, of the side and of the reader's epoch: equal photos are cut once whatever
the drop, and a drop that grows cuts what is new.

    shards = PhotoCache(home, side).cut(workers, catalog)       # in the driver: Dask, or in this process
    squares = PhotoCache(home, side).open(names, folder)        # where the training runs: a ShardedArray

`run_photos` says which squares a training needs, so that they go when it is finished or a drop is forgotten.

n squares in a file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rid.assets.catalog.plan import DropCatalog, read_shards
from rid.assets.catalog.squares import READER_EPOCH, read_squares
from rid.assets.teaching.array_files import ArrayWriter, items_in, local_files
from rid.resources.dask_workers import Workers
from rid.resources.records import CatalogRow, read_records
from rid.resources.storage import Storage
from rid.training.sharded_array import ShardedArray
from rid.training.teachers.units import photo_digest

SQUARES = "training/squares"  # under RID_HOME
FILE_BYTES = 2**26  # of squares in a file, about
CATALOG_SHARDS = 4  # in a file, unless squares are so large that fewer fill it


@dataclass(frozen=True)
class SquareShard:
    """One file of squares.

    Attributes:
        name: of the file, without its suffix.
        rows: of the catalog that went in.
        photos: squares in it; the other rows could not be decoded.
    """

    name: str
    rows: int
    photos: int


@dataclass(frozen=True)
class SquareIndex:
    """Notes on the n squares of a file.

    Attributes:
        rows: n places in the run of catalog rows that was cut.
        digests: n digests, as `photo_digest` makes them.
    """

    rows: list[int]
    digests: list[str]


@dataclass(frozen=True)
class SquaresTask:
    """One file to cut.

    Attributes:
        folder: of the squares of this side.
        side: of the squares.
        name: of the file.
        catalog: URL of the drop's catalog.
        shards: numbers of the catalog's shards.
        rows: in those shards.
    """

    folder: Storage
    side: int
    name: str
    catalog: str
    shards: tuple[int, ...]
    rows: int


class PhotoCache:
    """The squares of one side."""

    def __init__(self, home: Storage, side: int) -> None:
        """Names the folder; nothing is read yet.

        Args:
            home: RID_HOME.
            side: of the squares.
        """
        self.side = side
        self.storage = home.child(*SQUARES.split("/"), str(side))

    def tasks(self, catalog: DropCatalog) -> Iterator[SquaresTask]:
        """Yields every file of a drop in the catalog's order, whether it is there or not; no photo is read."""
        share = max(1, min(CATALOG_SHARDS, FILE_BYTES // (3 * self.side**2 * 64)))
        group: list[int] = []
        digest, rows = self._digest(), 0
        for number, shard in read_shards(catalog.url, ["input_sha256", "reason"]):
            if group and number // share != group[-1] // share:
                yield self._task(digest, catalog, group, rows)
                group, digest, rows = [], self._digest(), 0
            group.append(number)
            rows += shard.num_rows
            digest.update(json.dumps([shard.column(i).to_pylist() for i in range(2)]).encode())
        if group:
            yield self._task(digest, catalog, group, rows)

    def cut(
        self, workers: Workers, catalog: DropCatalog, on_cut: Callable[[int], None] = lambda _: None
    ) -> list[SquareShard]:
        """Cuts what is missing of a drop and returns all its files in the catalog's order.

        Args:
            workers: where photos are decoded.
            catalog: of the drop.
            on_cut: called with the rows of each file that was cut.

        Raises:
            InputChanged: if a photo is another one than the catalog says.
            RuntimeError: if workers died; what the others cut is kept.
        """
        tasks, there = list(self.tasks(catalog)), self.photos()
        missing = list({task.name: task for task in tasks if task.name not in there}.values())
        died = 0
        for done in workers.run(cut_squares, missing, prefix="squares", expected=len(missing)):
            if done.result is None:
                died += 1
            else:
                there[done.task.name] = done.result
                on_cut(done.task.rows)
        if died:
            raise RuntimeError(
                f"{died} workers died while they cut squares; the others' are kept: give workers more memory, or "
                "protect the drop first, which isolates a photo that ends its worker"
            )
        return [SquareShard(task.name, task.rows, there[task.name]) for task in tasks]

    def photos(self) -> dict[str, int]:
        """Returns the number of squares in each file that is there, by its name; none is opened."""
        entries = self.storage.list_files() if self.storage.is_folder() else iter(())
        shape = (self.side, self.side, 3)
        files = (entry for entry in entries if entry.path.endswith(".npy"))
        return {entry.path.removesuffix(".npy"): items_in(entry.size, shape, np.uint8) for entry in files}

    def index(self, name: str) -> SquareIndex:
        """Returns what is said of a file's squares."""
        return SquareIndex(**json.loads(self.storage.read_bytes(f"{name}.json")))

    def open(self, names: Sequence[str], folder: Path) -> ShardedArray:
        """Returns (N, side, side, 3) uint8 squares of some files, in order.

        Args:
            names: of the files.
            folder: gets copies of files that do not lie on a disk of this machine.

        Raises:
            ValueError: if a file is missing or torn.
        """
        files = local_files(self.storage, [f"{name}.npy" for name in names], folder)
        return ShardedArray(files, (self.side, self.side, 3), np.uint8)

    def delete(self, names: Sequence[str]) -> int:
        """Deletes files and what is said of them, and returns how many files were there."""
        return sum(self.storage.discard(f"{name}.{kind}") for name in names for kind in ("npy", "json"))

    def _digest(self) -> hashlib._Hash:
        return hashlib.sha256(f"squares {READER_EPOCH} {self.side}".encode())

    def _task(self, digest: hashlib._Hash, catalog: DropCatalog, group: list[int], rows: int) -> SquaresTask:
        name = digest.hexdigest()[:32]
        return SquaresTask(self.storage, self.side, name, catalog.url, tuple(group), rows)


def cut_squares(task: SquaresTask) -> int:
    """Decodes the photos of a task, writes their squares and returns how many there are; one is in memory at a time."""
    shards = read_shards(task.catalog, wanted=task.shards)
    rows = [row for _, shard in shards for row in read_records(CatalogRow, shard)]
    place = {row.key: number for number, row in enumerate(rows)}
    places, digests = [], []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "squares.npy"
        with ArrayWriter(file, (task.side, task.side, 3), np.uint8) as writer:
            for photo in read_squares(rows, task.side):
                writer.append(photo.square)
                places.append(place[photo.key])
                digests.append(photo_digest(photo.square))
        task.folder.write_bytes(f"{task.name}.json", json.dumps({"rows": places, "digests": digests}).encode())
        task.folder.write_file(f"{task.name}.npy", file)
    return len(places)

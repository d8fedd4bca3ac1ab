"""Which photos of a drop a teacher perturbs, and together with which. Runs in the driver, without torch."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rid.assets.catalog.plan import DropCatalog, read_shards
from rid.assets.catalog.sources import read_column
from rid.assets.teaching.photo_cache import PhotoCache, SquareIndex, SquareShard, SquaresTask
from rid.assets.teaching.teacher_cache import Selection, TeacherCache
from rid.resources.records import CatalogRow, read_records
from rid.training.photo_set import in_share
from rid.training.teachers.units import Unit, person_units

BY_FOLDER, BY_DROP = "folder", "drop"


@dataclass(frozen=True)
class CutDrop:
    """A drop whose squares are cut.

    Attributes:
        squares: the cache that has them.
        catalog: of the drop.
        shards: its files of squares, in the catalog's order.
    """

    squares: PhotoCache
    catalog: DropCatalog
    shards: Sequence[SquareShard]

    def indices(self) -> Iterator[tuple[SquaresTask, SquareIndex]]:
        """Yields what is said of each file's squares, and which rows of the catalog they were cut from."""
        for task, shard in zip(self.squares.tasks(self.catalog), self.shards, strict=True):
            if shard.photos:
                yield task, self.squares.index(task.name)


class UnitPlan:
    """Selects a drop's units by what is said of its squares, and stores the photos that tasks will need.

    A photo's digest decides whether it belongs to the share. No photo is decoded.
    """

    def __init__(self, drop: CutDrop, selection: Selection, cache: TeacherCache) -> None:
        self._drop, self._selection, self._cache = drop, selection, cache
        self._stored = cache.photos()

    def units(self) -> Iterator[Unit]:
        """Yields the selected units, each once: photos file by file, people when all files were looked at."""
        photos, seen = 0, set()
        for unit in self._people() if self._selection.set_by else self._photos():
            photos += len(unit.photos)
            if self._selection.largest is not None and photos > self._selection.largest:
                return
            if unit not in seen:
                seen.add(unit)
                yield unit

    def _photos(self) -> Iterator[Unit]:
        for task, index in self._drop.indices():
            chosen = {place: digest for place, digest in enumerate(index.digests) if self._in_share(digest)}
            self._store(task.name, chosen)
            yield from (Unit((digest,)) for digest in chosen.values())

    def _people(self) -> Iterator[Unit]:
        people = defaultdict(list)
        for task, index in self._drop.indices():
            named = people_of(task, index.rows, self._selection.set_by)
            by_drop = self._selection.set_by == BY_DROP
            chosen = {
                place: digest
                for place, (digest, person) in enumerate(zip(index.digests, named, strict=True))
                if self._in_share(digest if by_drop else person)
            }
            self._store(task.name, chosen)
            for place, digest in chosen.items():
                people[named[place]].append(digest)
        yield from person_units(people, self._selection.set_size)

    def _in_share(self, content: str) -> bool:
        return in_share(content.encode(), self._selection.share, self._selection.seed)

    def _store(self, name: str, chosen: dict[int, str]) -> None:
        """Copies chosen squares of a file to where the teacher's tasks find them."""
        missing = {place: digest for place, digest in chosen.items() if digest not in self._stored}
        if not missing:
            return
        with tempfile.TemporaryDirectory() as temporary:
            squares = self._drop.squares.open([name], Path(temporary))
            for place, digest in missing.items():
                self._cache.write_photo(digest, squares[place])
                self._stored.add(digest)


def people_of(task: SquaresTask, places: Sequence[int], set_by: str) -> list[str]:
    """Returns who is on some photos, as far as the catalog tells: a folder, the drop, or the value of a column.

    A photo whose column is null is a person of its own.

    Args:
        task: names the rows of the catalog.
        places: of the photos in those rows.
        set_by: "folder", "drop", or a column's name.

    Raises:
        ValueError: if a photo lies in no folder, or has no such column.
    """
    if set_by == BY_DROP:
        return [""] * len(places)
    shards = read_shards(task.catalog, wanted=task.shards)
    rows = [row for _, shard in shards for row in read_records(CatalogRow, shard)]
    chosen = [rows[place] for place in places]
    if set_by == BY_FOLDER:
        return [_folder(row.key) for row in chosen]
    try:
        values = read_column(chosen, set_by)
    except ValueError as error:
        raise ValueError(f"set_by {set_by!r} tells nobody apart: {error}, or choose 'folder' or 'drop'") from error
    return [row.key if value is None else str(value) for row, value in zip(chosen, values, strict=True)]


def _folder(key: str) -> str:
    folder = str(PurePosixPath(key).parent)
    if folder == ".":
        raise ValueError(
            "a photo lies in no folder, so its person is unknown: give each person a folder, or set set_by to the "
            "name of a column that tells people apart, or to 'drop' if all photos show one person"
        )
    return folder

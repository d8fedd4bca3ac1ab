"""Which photos of a drop a teacher perturbs, and together with which. Runs where the asset runs, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from rid.assets.catalog.plan import DropCatalog
from rid.assets.catalog.squares import TrainingPhoto, training_photos
from rid.assets.teaching.teacher_cache import Selection, TeacherCache
from rid.training.photo_set import in_share
from rid.training.teachers.units import Unit, person_units, photo_digest

BY_FOLDER, BY_DROP = "folder", "drop"


class UnitPlan:
    """Reads a drop's photos once, in order, and stores those that tasks will need.

    Attributes:
        photos: photos seen so far.
    """

    def __init__(self, catalog: DropCatalog, side: int, selection: Selection, cache: TeacherCache) -> None:
        self._catalog, self._side, self._selection, self._cache = catalog, side, selection, cache
        self._stored = cache.photos()
        self.photos = 0

    def units(self) -> Iterator[Unit]:
        """Yields the selected units, each once: photos as they are read, people when all photos were read."""
        if self._selection.set_by:
            yield from dict.fromkeys(self._people())
            return
        seen = set()
        for photo in self._read():
            if in_share(photo.square.tobytes(), self._selection.share, self._selection.seed):
                unit = Unit((self._store(photo),))
                if unit not in seen:
                    seen.add(unit)
                    yield unit

    def _people(self) -> list[Unit]:
        people = defaultdict(list)
        for photo in self._read():
            person = person_of(photo, self._selection.set_by)
            content = photo.square.tobytes() if self._selection.set_by == BY_DROP else person.encode()
            if in_share(content, self._selection.share, self._selection.seed):
                people[person].append(self._store(photo))
        return person_units(people, self._selection.set_size)

    def _read(self) -> Iterator[TrainingPhoto]:
        for photo in training_photos(self._catalog, self._side):
            self.photos += 1
            yield photo

    def _store(self, photo: TrainingPhoto) -> str:
        digest = photo_digest(photo.square)
        if digest not in self._stored:
            self._cache.write_photo(digest, photo.square)
            self._stored.add(digest)
        return digest


def person_of(photo: TrainingPhoto, set_by: str) -> str:
    """Returns who is on a photo, as far as the catalog tells: its folder, the drop, or the value of a column.

    A photo whose column is null is a person of its own.

    Raises:
        ValueError: if the photo lies in no folder, or has no such column.
    """
    if set_by == BY_DROP:
        return ""
    if set_by == BY_FOLDER:
        folder = str(PurePosixPath(photo.key).parent)
        if folder == ".":
            raise ValueError(
                "a photo lies in no folder, so its person is unknown: give each person a folder, or set set_by to the "
                "name of a column that tells people apart, or to 'drop' if all photos show one person"
            )
        return folder
    names = photo.columns.schema.names if photo.columns is not None else []
    if photo.columns is None or set_by not in names:
        columns = ", ".join(names) or "it has none"
        raise ValueError(f"set_by {set_by!r} is no column of the drop: choose 'folder', 'drop' or a column ({columns})")
    value = photo.columns.column(set_by)[0].as_py()
    return photo.key if value is None else str(value)

"""Photos to measure on, and who is on them: from Parquet files and folders, spread over the people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rid.resources.catalogs import open_parquet
from rid.resources.storage import Storage

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
PARQUET = ".parquet"
IDENTITY, IMAGE = "identity", "image"


@dataclass(frozen=True)
class MeasuredPhotos:
    """Files of photos, and the name of the person on each; a photo of nobody in particular has a name of its own."""

    files: list[bytes]
    people: list[str]


@dataclass(frozen=True)
class _Place:
    """A photo that was found: a file, or a row of a Parquet file."""

    storage: Storage
    path: str
    row: int | None
    person: str


def read_measured_photos(locations: Sequence[str], count: int, between: str | None = None) -> MeasuredPhotos:
    """Returns at most `count` photos; everybody's first photo comes first, then everybody's second.

    Args:
        locations: Parquet files with a column `image` of struct<bytes, path> and, if people are known, `identity`; and
            folders of photos, where a folder inside is a person.
        count: of photos.
        between: FIRST:LAST limits the people by name, both included.

    Raises:
        ValueError: if nothing is found, or a Parquet file has no such column.
    """
    first, _, last = (between or ":").partition(":")
    by_person: dict[str, list[_Place]] = {}
    for location in locations:
        for place in _places(Storage(location)):
            if first <= place.person and (not last or place.person <= last):
                by_person.setdefault(place.person, []).append(place)
    longest = max((len(places) for places in by_person.values()), default=0)
    chosen = [places[turn] for turn in range(longest) for _, places in sorted(by_person.items()) if turn < len(places)][
        :count
    ]
    if not chosen:
        raise ValueError(f"no photo is found in {', '.join(locations)}: give Parquet files or folders of photos")
    return MeasuredPhotos(_read(chosen), [place.person for place in chosen])


def _places(storage: Storage) -> Iterator[_Place]:
    """Yields the photos of a Parquet file or of a folder, in order."""
    if storage.url.endswith(PARQUET):
        parent, name = storage.as_parent_and_name()
        with parent.open(name) as file:
            parquet = open_parquet(file)
            names = parquet.schema_arrow.names
            if IMAGE not in names:
                raise ValueError(f"{storage.url} has no column {IMAGE!r}: it has {', '.join(names)}")
            people = (
                parquet.read([IDENTITY]).column(IDENTITY).to_pylist()
                if IDENTITY in names
                else [None] * parquet.metadata.num_rows
            )
        for row, person in enumerate(people):
            yield _Place(parent, name, row, f"{name} {row}" if person is None else str(person))
        return
    for found in sorted(storage.list_files(), key=lambda entry: entry.path):
        if found.path.lower().endswith(SUFFIXES):
            yield _Place(storage, found.path, None, found.path.rpartition("/")[0] or found.path)


def _read(places: Sequence[_Place]) -> list[bytes]:
    """Returns the bytes of photos; a Parquet file is opened once and its row groups are read one by one."""
    found: dict[_Place, bytes] = {}
    for place in places:
        if place.row is None:
            found[place] = place.storage.read_bytes(place.path)
    rows: dict[tuple[Storage, str], dict[int, _Place]] = {}
    for place in places:
        if place.row is not None:
            rows.setdefault((place.storage, place.path), {})[place.row] = place
    for (storage, path), wanted in rows.items():
        with storage.open(path) as file:
            parquet = open_parquet(file)
            start = 0
            for group in range(parquet.metadata.num_row_groups):
                stop = start + parquet.metadata.row_group(group).num_rows
                inside = [row for row in wanted if start <= row < stop]
                if inside:
                    images = parquet.read_row_group(group, columns=[IMAGE], use_threads=False).column(IMAGE)
                    found |= {wanted[row]: images[row - start].as_py()["bytes"] for row in inside}
                start = stop
    return [found[place] for place in places]

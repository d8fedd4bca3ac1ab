"""Targets: folders and tables that hold protected photos, their receipts and catalogs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rid.assets.catalog.plan import DropCatalog, read_current, state_storage
from rid.assets.protection.shards.files import TargetKind
from rid.resources.catalogs import list_source
from rid.resources.commits import ProtectedTable
from rid.resources.storage import Storage


class NotATarget(ValueError):
    """There is nothing at the URL that this system published."""


@dataclass(frozen=True)
class Target:
    """A place that photos are protected into.

    Attributes:
        storage: the folder, prefix or table.
        kind: "files" has photos under their own names, "table" has them in the table of the receipts.
    """

    storage: Storage
    kind: TargetKind

    @property
    def url(self) -> str:
        """URL of the folder, prefix or table."""
        return self.storage.url

    @property
    def receipts(self) -> ProtectedTable:
        """The table of the receipts."""
        return ProtectedTable(self.storage if self.kind == "table" else self.storage.child("_rid"))

    @property
    def folder(self) -> Storage | None:
        """The folder of the photos; None where the table holds them."""
        return self.storage if self.kind == "files" else None

    @property
    def state(self) -> Storage:
        """The folder of the catalogs."""
        return state_storage(self.storage)

    def states(self) -> tuple[Storage, Storage]:
        """Folders that may hold catalogs: in the target, and beside it, as earlier versions of the assets had it."""
        return self.state, self.storage.as_parent_and_name()[0]

    def current(self, drop: str) -> DropCatalog | None:
        """The drop's catalog, or None if it is gone."""
        return next((found for state in self.states() if (found := read_current(state, drop))), None)


def find_target(url: str) -> Target:
    """Finds what was published at a URL.

    Raises:
        NotATarget: if nothing was.
    """
    place = Storage(url)
    for target in (Target(place, "table"), Target(place, "files")):
        if target.receipts.storage.is_folder() and target.receipts.exists():
            return target
    raise NotATarget(f"{url} holds no receipts (_rid) and is no table of protected photos: nothing was published there")


def new_target(source: Storage, place: Storage) -> Target:
    """Decides what a source's photos become: rows of a table if they come as Parquet or a table is there, else files.

    Raises:
        ValueError: if the place holds something that was not published here, or the source cannot be listed.
        FileNotFoundError: if there is nothing at the source.
    """
    check_apart(source, place)
    is_table = place.is_folder() and ProtectedTable(place).exists()
    target = Target(place, "table" if is_table or list_source(source).kind == "parquet" else "files")
    if place.is_folder() and next(place.list_files(), None) is not None and not place.child("_rid").is_folder():
        raise ValueError(f"TARGET {place.url} is not empty and was not made by rid: choose an empty or a new one")
    return target


def check_apart(source: Storage, target: Storage) -> None:
    """Refuses a target that is the source, or one inside the other: an original must never be written over.

    Raises:
        ValueError: naming both.
    """
    inside = _lies_in(source.url, target.url) or _lies_in(target.url, source.url)
    if not inside and not source.is_s3 and not target.is_s3:
        real_source, real_target = Path(source.url).resolve(), Path(target.url).resolve()
        inside = real_target.is_relative_to(real_source) or real_source.is_relative_to(real_target)
    if inside:
        raise ValueError(f"TARGET {target.url} and SOURCE {source.url} overlap: choose a target outside of the source")


def _lies_in(url: str, folder: str) -> bool:
    return url == folder or url.startswith(f"{folder}/")

"""The part of a catalog that workers make: they read photos and return a row for each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from rid.assets.catalog.picture_columns import NONE_NAMED, PictureColumns, columns_with_pictures, refuse
from rid.assets.catalog.sidecars import read_sidecars
from rid.assets.catalog.sources import InputChanged, iter_parquet_photos, row_digest
from rid.assets.catalog.uris import UriNotAllowed, read_uri
from rid.models.photo_files.images import PhotoRefused, mark_of, read_header
from rid.models.policy import ProtectionPolicy
from rid.models.protector_process import place_of
from rid.resources.catalogs import StoredPhoto, named, open_parquet, parquet_layout
from rid.resources.records import CatalogRow, to_arrow
from rid.resources.schemas import CATALOG, Reason
from rid.resources.storage import Storage, StorageUrlError

HASH_CHUNK = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedPhoto:
    """A photo that is a file of its own, as it was listed.

    Attributes:
        path: relative to the source.
        size: bytes.
        identity: of the file and its sidecars.
        sidecars: paths of the XMP files that go along with it.
    """

    path: str
    size: int
    identity: str
    sidecars: tuple[str, ...]


@dataclass(frozen=True)
class IndexTask:
    """Photos to read: `photos` of a listing, or one row group of a Parquet file.

    Attributes:
        source: of the drop.
        policy: whose limits the header is held against.
        photos: of a listing.
        parquet_path: for Parquet, the file relative to the source.
        identity: of that file.
        row_group: of that file.
        allowed_prefixes: where photos that a `uri` column names may lie.
        columns: what becomes of the columns of Parquet that hold pictures.
    """

    source: Storage
    policy: ProtectionPolicy
    photos: tuple[ListedPhoto, ...] = ()
    parquet_path: str | None = None
    identity: str = ""
    row_group: int = 0
    allowed_prefixes: tuple[str, ...] = ()
    columns: PictureColumns = NONE_NAMED


def index_photos(task: IndexTask) -> pa.Table:
    """Reads the photos of a task and returns their rows in the CATALOG schema; runs on a worker.

    Raises:
        InputChanged: if a listed file is gone.
        PicturesNotNamed: if columns hold pictures, and the task does not say what becomes of them.
        OSError: for faults of the storage, which the caller repeats.
    """
    rows = _file_rows(task) if task.parquet_path is None else _parquet_rows(task)
    return to_arrow(list(rows), CATALOG)


def _file_rows(task: IndexTask) -> Iterator[CatalogRow]:
    """Rows of photos that are files of their own."""
    for photo in task.photos:
        row = listed_row(task.source, photo)
        if row.key == photo.path:
            yield replace(_read_photo(row, task), sidecars=read_sidecars(task.source, photo.sidecars))
        else:
            yield refused(row, Reason.UNSAFE_NAME, "the name is not UTF-8")


def listed_row(source: Storage, photo: ListedPhoto) -> CatalogRow:
    """A row with what the listing says of a photo."""
    key = printable(photo.path)
    return CatalogRow(key=key, source_uri=source.uri(key), identity=photo.identity, bytes_in=photo.size)


def refused(row: CatalogRow, reason: str, detail: str) -> CatalogRow:
    """Returns the row of a photo that is held back whatever its bytes are."""
    return replace(row, reason=str(reason), detail=detail)


def printable(path: str) -> str:
    """A file name as text; bytes that are not UTF-8 are written out, and such a file is never read."""
    return path.encode("utf-8", "backslashreplace").decode()


def _parquet_rows(task: IndexTask) -> Iterator[CatalogRow]:
    """Rows of one row group."""
    assert task.parquet_path is not None, "the caller looked"
    uri = task.source.uri(task.parquet_path)
    with task.source.open(task.parquet_path) as file, named(uri):
        layout = parquet_layout(open_parquet(file).schema_arrow)
        unnamed, pictures = task.columns.open_in(layout.passthrough), set()
        for stored, columns in iter_parquet_photos(file, task.row_group, layout):
            if columns is not None:
                pictures.update(columns_with_pictures(columns, unnamed))
            row = CatalogRow(
                key=stored.name or f"{task.parquet_path}/{task.row_group}/{stored.position}",
                source_uri=uri,
                row_group=task.row_group,
                row_in_group=stored.position,
                identity=task.identity,
                bytes_in=len(stored.data) if stored.data is not None else 0,
                columns_sha256=row_digest(columns) if columns is not None else None,
            )
            yield _read_stored(row, stored, task)
        refuse(pictures, uri)


def _read_stored(row: CatalogRow, stored: StoredPhoto, task: IndexTask) -> CatalogRow:
    """Adds what the photo of a Parquet row says, wherever its bytes are."""
    if stored.data is not None:
        return describe(row, stored.data, task.policy)
    if stored.uri is None:
        return refused(row, Reason.EMPTY, "the row has no image")
    try:
        data = read_uri(stored.uri, task.allowed_prefixes)
    except UriNotAllowed as error:
        return refused(row, Reason.URI_NOT_ALLOWED, str(error))
    except (StorageUrlError, FileNotFoundError, PermissionError) as error:
        return refused(row, Reason.UNREADABLE, f"the URI cannot be read: {type(error).__name__}")
    return describe(replace(row, bytes_in=len(data)), data, task.policy)


def _read_photo(row: CatalogRow, task: IndexTask) -> CatalogRow:
    """Hashes one file and checks its header; a file over the size limit is hashed without being held in memory."""
    try:
        if row.bytes_in > task.policy.max_bytes:
            large = refused(row, Reason.TOO_LARGE, f"{row.bytes_in} bytes")
            return replace(large, input_sha256=_hash_stream(task.source, row.key))
        data = task.source.read_bytes(row.key)
    except FileNotFoundError as error:
        raise InputChanged("a listed photo is gone") from error
    except PermissionError:
        return refused(row, Reason.UNREADABLE, "the file may not be read")
    return describe(row, data, task.policy)


def describe(row: CatalogRow, data: bytes, policy: ProtectionPolicy) -> CatalogRow:
    """Returns a photo's row with what its bytes decide: sha256, format, size and mark, or why it is refused."""
    row = replace(row, input_sha256=hashlib.sha256(data).hexdigest())
    try:
        header = read_header(data, policy, row.key)
        mark = mark_of(data)
    except PhotoRefused as refusal:
        return refused(row, refusal.reason, refusal.detail)
    except MemoryError:
        return refused(row, Reason.OUT_OF_MEMORY, "its header asks for more memory than there is")
    except Exception as error:
        log.error("the header of a photo could not be read: %s at %s", type(error).__name__, place_of(error))
        return refused(row, Reason.INTERNAL_ERROR, f"{type(error).__name__} in the reader")
    return replace(
        row,
        format=header.format,
        width=header.width,
        height=header.height,
        mark=mark.pixels_sha256 if mark is not None else None,
    )


def _hash_stream(source: Storage, key: str) -> str:
    digest = hashlib.sha256()
    with source.open(key) as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

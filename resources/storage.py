"""One type for a place on disk and a place on S3: lists, reads, and writes files that appear whole.

URLs are plain paths, `file://` or `s3://`. Credentials come from the environment or a role, never from the URL;
`AWS_ENDPOINT_URL` is honoured.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from rid.resources.s3_objects import S3Objects, s3_identity
from rid.resources.unfinished_files import WRITING, UnfinishedFile, remove_if_abandoned

SWAP_DELAY = 0.1  # seconds
SWAPS = 20  # tries of a read-change-write that others keep overtaking


class StorageUrlError(ValueError):
    """A URL that is not allowed; the message says what is."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a listing.

    Attributes:
        path: relative to the storage that listed it, with `/` between folders.
        size: bytes.
        identity: size and ETag (S3) or size and modification time in ns (disk): equal means unchanged.
    """

    path: str
    size: int
    identity: str


def normalise_url(url: str) -> str:
    """Returns an absolute path or `s3://bucket/prefix`, without a trailing slash.

    Raises:
        StorageUrlError: for another scheme, a chained fsspec URL, or credentials in the URL.
    """
    if "::" in url:
        raise StorageUrlError("chained URLs (a::b) are not allowed: give a path, file:// or s3:// URL")
    if "://" not in url:
        return str(Path(url).expanduser().absolute()).rstrip("/") or "/"
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise StorageUrlError("a URL may not hold credentials: set them in the environment")
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return unquote(parts.path).rstrip("/") or "/"
    if parts.scheme == "s3" and parts.netloc:
        return "s3://" + url[len("s3://") :].strip("/")
    raise StorageUrlError(f"{parts.scheme}:// is not allowed: give a path, a file:// URL or an s3://bucket/prefix URL")


class Storage:
    """Files under one URL; every path given to a method is relative to it."""

    def __init__(self, url: str) -> None:
        """Normalises the URL; nothing is opened yet.

        Raises:
            StorageUrlError: see `normalise_url`.
        """
        self.url = normalise_url(url)
        self.is_s3 = self.url.startswith("s3://")

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def child(self, *parts: str) -> Storage:
        """Returns the storage of a folder inside this one."""
        return Storage(self.uri("/".join(checked_path(part) for part in parts)))

    def uri(self, path: str) -> str:
        """Returns the full URL of a file."""
        return f"{self.url.rstrip('/')}/{path}"

    def list_files(self, prefix: str = "") -> Iterator[FileEntry]:
        """Yields every file under the folder `prefix`, recursively; nothing if there is none.

        A link to a file is listed as a file, but one that leads out of this storage, or to nothing, cannot be read. A
        link to a folder is listed as an entry of size 0 and not followed.

        Raises:
            PermissionError: if a folder may not be listed: leaving its photos out would lose them.
        """
        if prefix:
            checked_path(prefix)
        if self.is_s3:
            for page in self._objects.pages(prefix):
                yield from (FileEntry(*found) for found in page if not found[0].endswith("/"))
        else:
            yield from self._list_local(prefix)

    def list_from(self, after: str = "") -> Iterator[FileEntry]:
        """Yields every file, those of one folder at the top together, in an order that stays.

        Args:
            after: begins behind this file, which was listed before; the rest of its folder may be left out.
        """
        if self.is_s3:
            for page in self._objects.pages(after=after):
                yield from (FileEntry(*found) for found in page if not found[0].endswith("/"))
            return
        top, slash, _ = after.partition("/")
        yield from _walk(self.url, "", top + slash)

    def exists(self, path: str) -> bool:
        """Returns whether a file is there."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None if there is none."""
        try:
            if self.is_s3:
                return int(self._objects.head(path)["ContentLength"])
            file = self._local(path)
            return file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> float:
        """Returns the time a file was last written, in seconds since 1970.

        Raises:
            FileNotFoundError: if it is not there.
        """
        if self.is_s3:
            return float(self._objects.head(checked_path(path))["LastModified"].timestamp())
        return self._local(path).stat().st_mtime

    def identity(self, path: str) -> str:
        """The listing identity of one file; see `FileEntry`."""
        if self.is_s3:
            head = self._objects.head(path)
            return s3_identity(head["ContentLength"], head["ETag"])
        return _local_identity(self._local(path).stat())

    def read_bytes(self, path: str) -> bytes:
        """Returns a file's bytes.

        Raises:
            FileNotFoundError: if there is none.
            PermissionError: if it may not be read, or is a link that leads out of this storage or to nothing.
            CredentialsRefusedError: if the store refuses the credentials.
        """
        if self.is_s3:
            return self._objects.get(_readable_name(path))
        return self._inside(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """Opens a file for reading; it can seek."""
        if self.is_s3:
            return self._objects.open(_readable_name(path))
        return self._inside(path).open("rb")

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file that appears whole: temporary file and rename, or one PUT."""
        if self.is_s3:
            self._objects.put(checked_path(path), data)
            return
        with self._replacing(path) as (temporary, file):
            file.write(data)
            _finish(file)
            temporary.replace(self._local(path))

    def write_file(self, path: str, local: Path) -> None:
        """Writes a local file's bytes; the file appears whole."""
        if self.is_s3:
            self._objects.put_file(checked_path(path), local)
            return
        with self._replacing(path) as (temporary, file), local.open("rb") as source:
            shutil.copyfileobj(source, file, 2**20)
            _finish(file)
            temporary.replace(self._local(path))

    def create_bytes(self, path: str, data: bytes) -> bool:
        """Writes a file only if there is none.

        Returns:
            True if the file now holds `data` by this call (or a repeat of it whose answer was lost), False if another
            content was there first.
        """
        if self.is_s3:
            return self._objects.put_if(checked_path(path), data, IfNoneMatch="*") or self.read_bytes(path) == data
        with self._replacing(path) as (temporary, file):
            file.write(data)
            _finish(file)
            try:
                os.link(temporary, self._local(path))
            except FileExistsError:
                return self.read_bytes(path) == data
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                return self._create_without_links(path, data)
            return True

    def update_bytes(self, path: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replaces a file by a function of its content; no concurrent update is lost.

        Args:
            path: of the file.
            change: returns the new content, given the old one, or None if there is no file. May be called repeatedly.

        Returns:
            What was written.

        Raises:
            TimeoutError: if other writers were always faster.
        """
        if not self.is_s3:
            with self._locked(path):
                new = change(self.read_bytes(path) if self.exists(path) else None)
                self.write_bytes(path, new)
                return new
        for attempt in range(SWAPS):
            # The ETag is read before the content: if the object changes in between, the condition fails.
            try:
                condition = {"IfMatch": self._objects.head(checked_path(path))["ETag"]}
                new = change(self.read_bytes(path))
            except FileNotFoundError:
                condition, new = {"IfNoneMatch": "*"}, change(None)
            if self._objects.put_if(path, new, **condition):
                return new
            time.sleep(SWAP_DELAY * min(attempt + 1, 5) * random.uniform(0.2, 1.5))
        raise TimeoutError(f"{path} could not be updated: other writers changed it {SWAPS} times meanwhile")

    def delete(self, path: str) -> None:
        """Deletes a file; none is fine."""
        with contextlib.suppress(FileNotFoundError):
            if self.is_s3:
                self._objects.delete(checked_path(path))
            else:
                self._local(path).unlink()

    def discard(self, path: str) -> bool:
        """Deletes a file that is of no use any more; False if that is not permitted here: runs work without it."""
        try:
            self.delete(path)
        except PermissionError:
            return False
        return True

    def remove_abandoned(self) -> list[str]:
        """Deletes what killed writers left half written, and returns those paths; a bucket never holds any."""
        if self.is_s3:
            return []
        unfinished = [entry.path for entry in self.list_files() if entry.path.endswith(WRITING)]
        return [path for path in unfinished if remove_if_abandoned(Path(self.uri(path)))]

    def is_folder(self) -> bool:
        """Returns whether the URL is a folder, or a prefix with at least one object."""
        if self.is_s3:
            try:
                return next(self._objects.pages(size=1), None) is not None
            except FileNotFoundError:  # no such bucket
                return False
        return Path(self.url).is_dir()

    def as_parent_and_name(self) -> tuple[Storage, str]:
        """Splits a file's URL into the storage of its folder and its name."""
        parent, _, name = self.url.rpartition("/")
        return Storage(parent or "/"), name

    @property
    def _objects(self) -> S3Objects:
        return S3Objects(self.url.removeprefix("s3://"))

    def _local(self, path: str) -> Path:
        return Path(self.url) / checked_path(path)

    def _inside(self, path: str) -> Path:
        """The local file, if it is a real file inside this storage."""
        file = self._local(path)
        real = Path(os.path.realpath(file))
        if not real.is_relative_to(os.path.realpath(self.url)):
            raise PermissionError(errno.EACCES, "a link that leads out of the folder is not followed", path)
        if file.is_symlink() and not real.exists():
            raise PermissionError(errno.EACCES, "a link that leads to nothing", path)
        if real.exists() and not real.is_file():
            raise PermissionError(errno.EACCES, "not a regular file", path)  # reading a pipe would never end
        return file

    def _replacing(self, path: str) -> UnfinishedFile:
        target = self._local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not Path(os.path.realpath(target.parent)).is_relative_to(os.path.realpath(self.url)):
            raise PermissionError(errno.EACCES, "nothing is written through a link that leads out of the folder", path)
        return UnfinishedFile(target)

    def _create_without_links(self, path: str, data: bytes) -> bool:
        """Conditional create on a file system without hard links; a reader may see the file grow."""
        try:
            with self._local(path).open("xb") as file:
                file.write(data)
                _finish(file)
        except FileExistsError:
            return self.read_bytes(path) == data
        return True

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        target = self._local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _list_local(self, prefix: str) -> Iterator[FileEntry]:
        yield from _walk(f"{self.url}/{prefix}", f"{prefix}/" if prefix else "")


def _walk(folder: str, prefix: str, after: str = "") -> Iterator[FileEntry]:
    """Lists a local folder in the order of keys in a bucket, from behind the entry `after` on.

    A folder that is gone is passed over, one that may not be listed is not.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(((_order(entry), entry) for entry in found), key=lambda named: named[0])
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in entries:
        if name <= after:
            continue
        if name.endswith("/"):
            yield from _walk(f"{folder}/{entry.name}", prefix + name)
            continue
        linked = entry.is_symlink() and Path(entry.path).is_dir()  # False for a link that runs in a circle
        status = _status(entry, follow=not linked)
        if status is not None:
            yield FileEntry(prefix + name, 0 if linked else status.st_size, _local_identity(status))


def _order(entry: os.DirEntry[str]) -> str:
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _status(entry: os.DirEntry[str], *, follow: bool) -> os.stat_result | None:
    """The state of a file, or of a link that leads to nothing; None if it was removed while it was listed."""
    for followed in (follow, False):
        try:
            return entry.stat(follow_symlinks=followed)
        except OSError as error:
            if not followed and not isinstance(error, FileNotFoundError):
                raise
    return None


def checked_path(path: str) -> str:
    """Returns a relative path that stays inside.

    Raises:
        StorageUrlError: if it is absolute, or has an empty, `.` or `..` part, or a NUL.
    """
    parts = path.split("/")
    if "\x00" in path or any(part in ("", ".", "..") for part in parts):
        raise StorageUrlError(f"path {path[:200]!r} is not a relative path that stays inside its folder")
    return path


def _readable_name(path: str) -> str:
    """Object names need not be paths: `a//b` is fine where it is only read."""
    if any(part in (".", "..") for part in path.split("/")):
        raise PermissionError(errno.EACCES, "an object name with '.' or '..' parts is not read", path)
    return path


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _local_identity(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"

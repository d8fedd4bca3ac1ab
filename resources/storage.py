"""One type for a place on disk and a place on S3: lists, reads, and writes files that appear whole.

URLs are plain paths, `file://` or `s3://`. Credentials come from the environment or a role, never from the URL;
`AWS_ENDPOINT_URL` is honoured.
"""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

Result = TypeVar("Result")

WRITING = ".rid-writing"  # suffix of a local file that is not whole yet
TRANSIENT_NAMES = (
    "ReadTimeout",
    "ConnectTimeout",
    "EndpointConnectionError",
    "ClientConnectorError",
    "ServerDisconnected",
    "IncompleteRead",
    "ClientPayloadError",
    "ConnectionClosedError",
    "ResponseStreamingError",
)
TRANSIENT_WORDS = (
    "SlowDown",
    "503",
    "500",
    "InternalError",
    "RequestTimeout",
    "reduce your request rate",
    "409",
    "Conflict",
)
ATTEMPTS = 5
FIRST_DELAY = 0.2  # seconds


class StorageUrlError(ValueError):
    """A URL that is not allowed; the message says what is."""


@dataclass(frozen=True)
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

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def child(self, *parts: str) -> Storage:
        """Returns the storage of a folder inside this one."""
        return Storage(f"{self.url}/{'/'.join(checked_path(part) for part in parts)}")

    def uri(self, path: str) -> str:
        """Returns the full URL of a file."""
        return f"{self.url}/{path}"

    def list_files(self, prefix: str = "") -> Iterator[FileEntry]:
        """Yields every file under `prefix`, recursively; nothing if there is none."""
        if self.is_s3:
            yield from self._list_s3(prefix)
        else:
            yield from self._list_local(Path(self.url) / checked_path(prefix) if prefix else Path(self.url))

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None if there is none."""
        try:
            if self.is_s3:
                info = _retried(lambda: self._s3().info(self._key(path)))
                return int(info["size"]) if info["type"] == "file" else None
            file = self._local(path)
            return file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            return None

    def identity(self, path: str) -> str:
        """The listing identity of one file; see `FileEntry`."""
        if self.is_s3:
            info = _retried(lambda: self._s3().info(self._key(path)))
            return f"{info['size']}-{str(info['ETag']).strip(chr(34))}"
        return _local_identity(self._local(path).stat())

    def read_bytes(self, path: str) -> bytes:
        """Returns a file's bytes.

        Raises:
            FileNotFoundError: if there is none.
            PermissionError: if it may not be read, or is a link that leads out of this storage.
        """
        if self.is_s3:
            return bytes(_retried(lambda: self._s3().cat_file(self._key(path))))
        return self._inside(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """Opens a file for reading; it can seek."""
        if self.is_s3:
            file: BinaryIO = _retried(lambda: self._s3().open(self._key(path), "rb", block_size=8 * 2**20))
            return file
        return self._inside(path).open("rb")

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file that appears whole: temporary file and rename, or one PUT."""
        if self.is_s3:
            _retried(lambda: self._s3().pipe_file(self._key(path), data))
            return
        with self._replacing(path) as (temporary, file):
            file.write(data)
            _finish(file)
            os.replace(temporary, self._local(path))

    def write_file(self, path: str, local: Path) -> None:
        """Writes a local file's bytes; the file appears whole."""
        if self.is_s3:
            _retried(lambda: self._s3().put_file(str(local), self._key(path)))
            return
        with self._replacing(path) as (temporary, file), local.open("rb") as source:
            shutil.copyfileobj(source, file, 2**20)
            _finish(file)
            os.replace(temporary, self._local(path))

    def create_bytes(self, path: str, data: bytes) -> bool:
        """Writes a file only if there is none.

        Returns:
            True if the file now holds `data` by this call (or a repeat of it whose answer was lost), False if another
            content was there first.
        """
        if self.is_s3:
            try:
                self._s3().pipe_file(self._key(path), data, mode="create")
                return True
            except FileExistsError:
                pass
            except OSError as error:  # some servers' 412 arrives as EINVAL
                if error.errno != errno.EINVAL and "PreconditionFailed" not in str(error):
                    raise
            return self.read_bytes(path) == data
        with self._replacing(path) as (temporary, file):
            file.write(data)
            _finish(file)
            try:
                os.link(temporary, self._local(path))
            except FileExistsError:
                return self.read_bytes(path) == data
            finally:
                temporary.unlink()
            return True

    def delete(self, path: str) -> None:
        """Deletes a file; none is fine."""
        try:
            if self.is_s3:
                self._s3().rm_file(self._key(path))
            else:
                self._local(path).unlink()
        except FileNotFoundError:
            return

    def is_folder(self) -> bool:
        """Whether the URL is a folder, or a prefix with at least one object."""
        if self.is_s3:
            return bool(_retried(lambda: self._s3().isdir(self.url[5:])))
        return Path(self.url).is_dir()

    def as_parent_and_name(self) -> tuple[Storage, str]:
        """Splits a file's URL into the storage of its folder and its name."""
        parent, _, name = self.url.rpartition("/")
        return Storage(parent or "/"), name

    def _s3(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False, default_fill_cache=False)

    def _key(self, path: str) -> str:
        return f"{self.url[5:]}/{path}"

    def _local(self, path: str) -> Path:
        return Path(self.url) / checked_path(path)

    def _inside(self, path: str) -> Path:
        """The local file, unless it is a link that leads out of this storage."""
        file = self._local(path)
        root = Path(os.path.realpath(self.url))
        if not Path(os.path.realpath(file)).is_relative_to(root):
            raise PermissionError(errno.EACCES, "a link that leads out of the folder is not followed", path)
        return file

    def _replacing(self, path: str) -> _Replacing:
        return _Replacing(self._local(path))

    def _list_local(self, folder: Path) -> Iterator[FileEntry]:
        for base, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                file = Path(base) / name
                try:
                    status = file.stat()
                except OSError:
                    status = file.lstat()
                path = file.relative_to(self.url).as_posix()
                yield FileEntry(path, status.st_size, _local_identity(status))

    def _list_s3(self, prefix: str) -> Iterator[FileEntry]:
        root = self.url[5:]
        start = f"{root}/{checked_path(prefix)}" if prefix else root
        found = _retried(lambda: self._s3().find(start + "/", detail=True))
        for name in sorted(found):
            info = found[name]
            if info["type"] != "file" or name.endswith("/"):
                continue
            identity = f"{info['size']}-{str(info['ETag']).strip(chr(34))}"
            yield FileEntry(name[len(root) + 1 :], int(info["size"]), identity)


class _Replacing:
    """A temporary file beside its target; removed if it was not renamed."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> tuple[Path, BinaryIO]:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self._target.with_name(f".{secrets.token_hex(6)}{WRITING}")
        self._file = self._temporary.open("wb")
        return self._temporary, self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def checked_path(path: str) -> str:
    """Returns a relative path that stays inside.

    Raises:
        StorageUrlError: if it is absolute, or has an empty, `.` or `..` part, or a NUL.
    """
    parts = path.split("/")
    if "\x00" in path or any(part in ("", ".", "..") for part in parts):
        raise StorageUrlError(f"path {path[:200]!r} is not a relative path that stays inside its folder")
    return path


def is_transient(error: BaseException) -> bool:
    """Whether a repeat may cure the error: throttling, timeouts, broken connections."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
        return False
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in TRANSIENT_NAMES:
        return True
    return isinstance(error, OSError) and any(word in str(error) for word in TRANSIENT_WORDS)


def _retried(call: Callable[[], Result]) -> Result:
    """Repeats a call with growing, jittered delays while its error is transient."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if attempt + 1 == ATTEMPTS or not is_transient(error):
                raise
            time.sleep(FIRST_DELAY * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _local_identity(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"

"""Objects under one S3 prefix: requests with a bounded number of repeats, and errors that say what went wrong.

Credentials come from the environment or a role. `AWS_ENDPOINT_URL` is honoured.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

Result = TypeVar("Result")

TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "ConditionalRequestConflict", "OperationAborted", "Throttling"}
TRANSIENT_STATUS = {408, 409, 429, 500, 502, 503, 504}
CREDENTIAL_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
# One call makes at most ATTEMPTS x CLIENT_ATTEMPTS requests: a dead server is given up within a minute. The
# client's own repeats are what protects reads of a file that is open.
ATTEMPTS = 4
CLIENT_ATTEMPTS = 4
FIRST_DELAY = 0.2  # seconds
READ_AHEAD = 8 * 2**20  # bytes


class CredentialsRefusedError(OSError):
    """The store does not know who asks: no credentials, or wrong or expired ones. It says nothing about the file."""

    transient = False


class S3Objects:
    """The objects whose keys begin with a prefix; every path given to a method is relative to it."""

    def __init__(self, location: str) -> None:
        """Takes `bucket` or `bucket/prefix`; nothing is asked yet."""
        self._location = location
        self._bucket, _, self._root = location.partition("/")

    def head(self, path: str) -> dict[str, Any]:
        """Returns an object's headers.

        Raises:
            FileNotFoundError: if there is none.
        """
        head: dict[str, Any] = _retried(lambda: self._client().call_s3("head_object", **self._address(path)))
        return head

    def get(self, path: str) -> bytes:
        """Returns an object's bytes by one GET: several ranges could come from two versions of it."""
        return bytes(_retried(lambda: self._client().cat_file(self._key(path), max_concurrency=1)))

    def open(self, path: str) -> BinaryIO:
        """Opens an object for reading; it can seek."""
        file: BinaryIO = _retried(lambda: self._client().open(self._key(path), "rb", block_size=READ_AHEAD))
        return file

    def put(self, path: str, data: bytes) -> None:
        """Writes an object."""
        _retried(lambda: self._client().pipe_file(self._key(path), data))

    def put_file(self, path: str, local: Path) -> None:
        """Writes an object from a local file; a large one in parts, which appear together."""
        _retried(lambda: self._client().put_file(str(local), self._key(path)))

    def put_if(self, path: str, data: bytes, **condition: str) -> bool:
        """Writes an object under a condition (`IfNoneMatch` or `IfMatch`); False if it does not hold.

        False also follows a write that succeeded, if its answer was lost and the repeat met the object.
        """
        address = self._address(path)
        try:
            _retried(lambda: self._client().call_s3("put_object", Body=data, **address, **condition))
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError as error:
            if _s3_answer(error)[0] != "PreconditionFailed":  # s3fs makes EINVAL of it, if the server names no header
                raise
            return False
        return True

    def delete(self, path: str) -> None:
        """Deletes an object."""
        _retried(lambda: self._client().rm_file(self._key(path)))

    def pages(self, folder: str = "", size: int = 1000, after: str = "") -> Iterator[list[tuple[str, int, str]]]:
        """Yields a listing's pages, each a list of (path, bytes, identity); one page is in memory at a time.

        Args:
            folder: leaves out what is not in it.
            size: objects a page.
            after: leaves out what does not sort after this path.
        """
        request = {"Bucket": self._bucket, "Prefix": self._prefix(folder), "MaxKeys": size}
        if after:
            request["StartAfter"] = self._prefix("") + after
        skipped = len(self._prefix(""))
        while True:
            page = _retried(lambda: self._client().call_s3("list_objects_v2", **request))
            if page.get("Contents"):
                yield [
                    (found["Key"][skipped:], int(found["Size"]), s3_identity(found["Size"], found["ETag"]))
                    for found in page["Contents"]
                ]
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _client(self) -> Any:
        """The S3 client of this process and thread. Nothing of a listing is cached, so none is stale."""
        import s3fs

        filesystem = s3fs.S3FileSystem(
            endpoint_url=s3_endpoint(),  # given, so that a client for another endpoint is not reused
            use_listings_cache=False,
            default_fill_cache=False,
            config_kwargs={"retries": {"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS}},
        )
        filesystem.retries = 2  # for bodies that break off; the client repeats the rest
        return filesystem

    def _key(self, path: str) -> str:
        if "?versionId=" in path:  # s3fs would cut it off, and read or write another object
            raise PermissionError(errno.EACCES, "an object name with '?versionId=' is not supported", path)
        return f"{self._location}/{path}"

    def _address(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(path).partition("/")[2]}

    def _prefix(self, folder: str) -> str:
        """Returns the prefix of a folder's keys."""
        return "".join(f"{part}/" for part in (self._root, folder) if part)


def s3_endpoint() -> str | None:
    """The endpoint that the environment names, or None for the provider's own.

    Raises:
        ValueError: if it holds credentials, which errors would repeat.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint and "@" in urlsplit(endpoint).netloc:
        raise ValueError("AWS_ENDPOINT_URL may not hold credentials: set AWS_ACCESS_KEY_ID and its secret instead")
    return endpoint


def is_transient(error: BaseException) -> bool:
    """Returns whether a repeat may cure the error: throttling, server faults, timeouts, broken connections."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | CredentialsRefusedError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    code, status = _s3_answer(error)
    return code in TRANSIENT_CODES or status in TRANSIENT_STATUS or isinstance(error, _broken_connections())


def _s3_answer(error: BaseException) -> tuple[str, int]:
    """Error code and HTTP status of an S3 answer; ("", 0) if the error is not one."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return "", 0
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status)


def _broken_connections() -> tuple[type[Exception], ...]:
    from aiohttp import ClientConnectionError, ClientPayloadError
    from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError, ResponseStreamingError

    broken = (HTTPClientError, IncompleteReadError, ResponseStreamingError, ClientConnectionError, ClientPayloadError)
    return (*broken, FlexibleChecksumError)


def _retried(call: Callable[[], Result]) -> Result:
    """Repeats an S3 call with growing, jittered delays while its error is transient."""
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise CredentialsRefusedError(
                errno.EACCES, "there are no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
            ) from error
        except Exception as error:
            code, _ = _s3_answer(error)
            if code in CREDENTIAL_CODES:
                raise CredentialsRefusedError(errno.EACCES, f"S3 refused the credentials ({code})") from error
            if not is_transient(error):
                raise
            if attempt + 1 == ATTEMPTS:
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(f"S3 did not answer {ATTEMPTS} times: {type(error).__name__}: {error}") from error
            time.sleep(FIRST_DELAY * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable: the last attempt returns or raises")


def s3_identity(size: int, etag: str) -> str:
    """The listing identity of an object: its size and its ETag."""
    return f"{size}-{etag.strip(chr(34))}"

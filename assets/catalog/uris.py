"""Limits of a catalog's `uri` column: a catalog is data, and must not choose what is read with our rights.

Only the source's own prefix is open: its folder, or its bucket. An operator may add prefixes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rid.resources.storage import Storage

NO_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


class UriNotAllowed(PermissionError):
    """A URI outside of the prefixes that may be read."""


def with_own_prefix(base: Storage, allowed_prefixes: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the prefixes under which photos may be read, the source's own first.

    Args:
        base: the source's folder or prefix; a relative URI is relative to it.
        allowed_prefixes: those that an operator adds.

    Raises:
        StorageUrlError: if one of them is no path, file:// or s3:// URL.
    """
    return (base.url, *(Storage(prefix).url for prefix in allowed_prefixes))


def read_uri(uri: str, allowed_prefixes: Sequence[str] | None = None) -> bytes:
    """Reads one photo by its URI.

    Args:
        uri: a path, file:// or s3:// URL.
        allowed_prefixes: what `with_own_prefix` returned; None where the URI was not taken from a catalog's data.

    Raises:
        StorageUrlError: if the scheme is not allowed.
        UriNotAllowed: if the URI lies outside of `allowed_prefixes`.
        OSError: if it cannot be read.
    """
    if "\x00" in uri:
        raise UriNotAllowed("the URI has a NUL")
    parent, name = Storage(_absolute(uri, allowed_prefixes[0]) if allowed_prefixes else uri).as_parent_and_name()
    if allowed_prefixes and not _is_allowed(parent.uri(name), allowed_prefixes):
        raise UriNotAllowed("the URI lies outside of the source's own folder or bucket")
    try:
        return parent.read_bytes(name)
    except OSError as error:
        if error.errno in NO_FILE:
            raise FileNotFoundError(error.errno, "the URI names no file") from error
        raise


def _absolute(uri: str, base: str) -> str:
    relative = "://" not in uri and not uri.startswith("/")
    return f"{base}/{uri}" if relative else uri


def _is_allowed(url: str, allowed_prefixes: Sequence[str]) -> bool:
    own = allowed_prefixes[0]
    return any(_lies_under(url, prefix, own=prefix == own) for prefix in allowed_prefixes)


def _lies_under(url: str, prefix: str, *, own: bool) -> bool:
    """Says whether an address lies under a prefix; the source's own one on S3 opens its whole bucket."""
    if url.startswith("s3://") != prefix.startswith("s3://"):
        return False
    if not url.startswith("s3://"):
        return Path(os.path.realpath(url)).is_relative_to(os.path.realpath(prefix))
    if any(part in ("", ".", "..") for part in url.removeprefix("s3://").split("/")):
        return False
    open_part = f"s3://{urlsplit(prefix).netloc}" if own else prefix
    return url.startswith(f"{open_part}/")

"""Which photos a catalog's `uri` column may name: a catalog is data, and must not choose what is read with our rights.

Only the source's own place is open: its folder, or its bucket. An operator may add prefixes.
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
    """A URI outside of the places that may be read."""


def open_places(base: str, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the prefixes under which photos may be read.

    Args:
        base: URL of the source's folder or prefix; a relative URI is relative to it.
        more: prefixes that an operator adds.

    Raises:
        StorageUrlError: if one of them is no path, file:// or s3:// URL.
    """
    return (Storage(base).url, *(Storage(place).url for place in more))


def read_uri(uri: str, places: Sequence[str] | None = None) -> bytes:
    """Reads one photo by its URI.

    Args:
        uri: a path, file:// or s3:// URL.
        places: what `open_places` returned; None where the URI was not taken from a catalog's data.

    Raises:
        StorageUrlError: if the scheme is not allowed.
        UriNotAllowed: if the URI lies outside of `places`.
        OSError: if it cannot be read.
    """
    if "\x00" in uri:
        raise UriNotAllowed("the URI has a NUL")
    parent, name = Storage(_absolute(uri, places[0]) if places else uri).as_parent_and_name()
    if places and not any(_lies_in(parent.uri(name), place, own=place == places[0]) for place in places):
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


def _lies_in(url: str, place: str, *, own: bool) -> bool:
    """Whether an address lies in a place; the source's own S3 place is its whole bucket."""
    if url.startswith("s3://") != place.startswith("s3://"):
        return False
    if not url.startswith("s3://"):
        return Path(os.path.realpath(url)).is_relative_to(os.path.realpath(place))
    if any(part in ("", ".", "..") for part in url.removeprefix("s3://").split("/")):
        return False
    open_part = f"s3://{urlsplit(place).netloc}" if own else place
    return url.startswith(f"{open_part}/")

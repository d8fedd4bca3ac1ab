"""Pictures in columns beside the photo: a row is published with all of them protected, or held back with none.

They share the receipt of the row's photo. What they were published as is beside it, so that it can be verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rid.assets.catalog.picture_columns import pictures_in, with_pictures
from rid.assets.protection.shards.files import ShardRow
from rid.resources.records import Receipt


def protect_pictures(
    row: ShardRow, names: Sequence[str], protect: Callable[[str, bytes], tuple[Receipt, bytes | None]]
) -> ShardRow:
    """Returns a row with the pictures in some columns protected.

    Args:
        row: of a photo that was decided; if it is held back, so are its pictures.
        names: of the columns.
        protect: given a picture's name and bytes, returns what would be the row's receipt if that picture were its
            photo, and what is published of it.
    """
    if not names:
        return row
    if row.image is None:
        return replace(row, passthrough=_emptied(row, names))
    passthrough, flags, digests = dict(row.passthrough), list(row.receipt.flags), []
    for name in names:
        published = []
        for picture, data in pictures_in([passthrough[name]]):
            receipt, made = protect(picture, data)
            if made is None:
                held = replace(receipt, detail=f"a picture in column {name!r}: {receipt.detail}")
                return ShardRow(held, row.name, None, _emptied(row, names))
            published.append(made)
            flags += receipt.flags
        digests += [hashlib.sha256(made).hexdigest() for made in published]
        passthrough[name] = with_pictures(passthrough[name], iter(published).__next__)
    receipt = replace(row.receipt, flags=tuple(dict.fromkeys(flags)))
    return replace(row, receipt=receipt, passthrough=passthrough, pictures=tuple(digests))


def carry_pictures(row: ShardRow, earlier: ShardRow, names: Sequence[str]) -> ShardRow | None:
    """Returns a row with the pictures of its earlier row; None if those are not what was published."""
    if picture_digests([earlier.passthrough[name] for name in names]) != earlier.pictures:
        return None
    kept = {name: earlier.passthrough[name] for name in names}
    return replace(row, passthrough={**row.passthrough, **kept}, pictures=earlier.pictures)


def picture_digests(values: Sequence[Any]) -> tuple[str, ...]:
    """Returns the sha256 of each picture in values of protected columns."""
    return tuple(hashlib.sha256(data).hexdigest() for _, data in pictures_in(values))


def _emptied(row: ShardRow, names: Sequence[str]) -> dict[str, Any]:
    """The pass-through columns without the pictures that would be protected."""
    return {**row.passthrough, **dict.fromkeys(names)}

"""Names of shard files: work key, what was decided beside it, and how often its result changed.

`<work key>[.<decisions>][-<generation>].parquet`. Equal names mean equal content: writers that race are harmless.
A work key says all that decides the content but two things: which marked photos a receipt bears out, which depends on
other drops at that moment, and which photos killed a worker. They are in the name where there are any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rid.resources.commits import shard_path


def shard_file(
    drop: str, work_key: str, *, known: Sequence[int] = (), killed: Sequence[int] = (), generation: int = 0
) -> str:
    """Returns the path of a shard's file in its table.

    Args:
        drop: the drop's name.
        work_key: hexadecimal.
        known: rows whose mark a receipt bears out.
        killed: rows that killed a worker.
        generation: 0, or higher when the same work had another result before.
    """
    name = work_key
    if known or killed:
        decisions = json.dumps([sorted(known), sorted(killed)])
        name += f".{hashlib.sha256(decisions.encode()).hexdigest()[:16]}"
    return shard_path(drop, f"{name}-{generation}" if generation else name)


def parse_shard_file(path: str) -> tuple[str, int]:
    """Returns the work key and the generation in a shard's path."""
    name, _, generation = path.rpartition("/")[2].removesuffix(".parquet").partition("-")
    return name.partition(".")[0], int(generation or 0)

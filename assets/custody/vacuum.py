"""Removes what nothing refers to any more: replaced shard files, shards that were never committed, old catalogs.

This is an operator's step, with its own permission to delete. The log stays, so that history still says which defender
protected a drop; the photos of a version that is older than what is kept cannot be read any more.
"""

from __future__ import annotations

import contextlib
import time

from rid.assets.catalog.plan import catalog_storage, read_current
from rid.assets.protection.targets import find_target
from rid.resources.run_locks import run_lock
from rid.resources.storage import Storage

DAY = 86_400  # seconds


def vacuum(target: str, *, keep_days: float, dry_run: bool = False) -> list[str]:
    """Removes unreferenced files of a target and returns their URIs.

    Args:
        target: a folder, a prefix or a table.
        keep_days: younger files stay: versions that may be wanted back, and what runs under way have written.
        dry_run: only list them.

    Raises:
        NotATarget: if nothing was published there.
        ValueError: if the number of days is negative.
    """
    if keep_days < 0:
        raise ValueError(f"{keep_days} days to keep is not allowed: give 0 or more")
    found = find_target(target)
    table = found.receipts
    folders = [
        (catalog_storage(state, drop), current.url)
        for drop in table.drops()
        for state in found.states()
        if (current := read_current(state, drop))
    ]
    with contextlib.ExitStack() as locks:
        for folder, _ in folders:
            locks.enter_context(run_lock(folder, folder.url.rpartition("/")[2]))
        removed = [table.storage.uri(path) for path in table.vacuum(keep_days * 24, dry_run=dry_run)]
        for folder, current_url in folders:
            removed += _remove_old(folder, current_url, keep_days, dry_run)
    return removed


def _remove_old(catalogs: Storage, current_url: str, keep_days: float, dry_run: bool) -> list[str]:
    """Removes a drop's replaced catalogs."""
    replaced = [
        entry.path
        for entry in list(catalogs.list_files())
        if entry.path.endswith(".parquet") and catalogs.uri(entry.path) != current_url
    ]
    old = [path for path in replaced if time.time() - catalogs.modified(path) >= keep_days * DAY]
    for path in old if not dry_run else ():
        catalogs.delete(path)
    return [catalogs.uri(path) for path in old]

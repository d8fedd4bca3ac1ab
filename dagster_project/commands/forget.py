"""`rid forget` and `rid vacuum`: remove single photos, and what nothing refers to any more."""

from __future__ import annotations

import json
from dataclasses import asdict

from rid.dagster_project import exit_codes
from rid.dagster_project.settings import rid_home

SHOWN = 20


def forget(target: str, keys: frozenset[str], *, dry_run: bool, as_json: bool) -> int:
    """Runs `rid forget` and returns its exit code: MISMATCH while a file still names or holds one of the photos."""
    from rid.assets.custody.forgetting import forget as run

    result = run(target, keys, home=rid_home(), dry_run=dry_run)
    code = exit_codes.MISMATCH if result.left else exit_codes.OK
    if as_json:
        print(json.dumps(asdict(result)))
        return code
    count, verb = sum(result.drops.values()), "would be" if dry_run else "were"
    print(f"{count} photos {verb} removed from {len(result.drops)} drops, {result.deleted} files were deleted")
    for trace in result.left[:SHOWN]:
        print(f"left: {trace.kind}: {trace.uri}")
    if len(result.left) > SHOWN:
        print(f"... and {len(result.left) - SHOWN} more (--json lists all)")
    if result.in_source:
        print(f"the source still has {len(result.in_source)} of them: remove them, or the next run protects them")
    if not result.left:
        print("nothing of them is left in the target")
    elif not dry_run:
        print(f"what history holds goes with `rid vacuum {target} --keep-days 0`; then run this command again")
    return code


def vacuum(target: str, *, keep_days: float, dry_run: bool, as_json: bool) -> int:
    """Runs `rid vacuum` and returns its exit code."""
    from rid.assets.custody.vacuum import vacuum as run

    removed = run(target, keep_days=keep_days, dry_run=dry_run)
    if as_json:
        print(json.dumps({"removed": removed, "dry_run": dry_run}))
        return exit_codes.OK
    for uri in removed[:SHOWN]:
        print(uri)
    if len(removed) > SHOWN:
        print(f"... and {len(removed) - SHOWN} more (--json lists all)")
    print(f"{len(removed)} files {'would be' if dry_run else 'were'} removed")
    return exit_codes.OK

"""`rid verify`: checks a target against its receipts."""

from __future__ import annotations

import json

from rid.dagster_project import exit_codes

SHOWN = 50


def verify(target: str, *, source: str | None, as_json: bool) -> int:
    """Runs the command and returns its exit code."""
    from rid.assets.custody.verification import verify_target

    result = verify_target(target, source)
    if as_json:
        print(json.dumps(result.to_json()))
        return exit_codes.OK if result.passed else exit_codes.MISMATCH
    beside = f" and {result.sidecars} sidecars" if result.sidecars else ""
    beside += f" and {result.pictures} pictures in other columns" if result.pictures else ""
    print(
        f"{result.photos} rows, {result.published} published photos{beside} re-hashed, {len(result.findings)} findings"
    )
    for (drop, defender, policy), count in sorted(result.by_defender.items()):
        print(f"  drop {drop}: {count} protected by defender {defender[:12]} under policy {policy[:12]}")
    if result.budgets_checked or result.budgets_unchecked:
        print(f"  budgets of lossless photos: {result.budgets_checked} measured again", end="")
        missing = result.budgets_unchecked
        print(f", {missing} not: their originals cannot be read or changed" if missing else "")
    for finding in result.findings[:SHOWN]:
        print(f"{finding.kind}: {finding.name}: {finding.detail}")
    if len(result.findings) > SHOWN:
        print(f"... and {len(result.findings) - SHOWN} more (--json lists all)")
    print("verified" if result.passed else "NOT verified")
    return exit_codes.OK if result.passed else exit_codes.MISMATCH

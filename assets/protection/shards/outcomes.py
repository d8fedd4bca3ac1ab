"""Counts of a shard's rows by outcome."""

from __future__ import annotations

SIDECARS = "sidecars:carried"  # what sidecars are counted as among outcomes


def outcome_names(status: str, reason: str | None, sidecars: int) -> tuple[str, ...]:
    """The names under which a row is counted: its status, "status:reason" where there is one, and its sidecars."""
    return (status, *([f"{status}:{reason}"] if reason else []), *[SIDECARS] * sidecars)

"""What the rows of a shard are counted as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIDECARS = "sidecars:carried"  # what sidecars are counted as among outcomes


def outcome_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which a row is counted: its status, "status:reason" where there is one, and its sidecars."""
    status, reason = row["status"], row["reason"]
    return (status, *([f"{status}:{reason}"] if reason else []), *[SIDECARS] * len(row["sidecars"] or ()))

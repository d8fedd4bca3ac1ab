"""The exit codes of `rid`."""

from __future__ import annotations

OK = 0
INTERNAL_ERROR = 1
QUARANTINED = 3
FAILURE_BUDGET = 4
INVALID_REQUEST = 5
MISMATCH = 6
INTERRUPTED = 130
TERMINATED = 143


class InvalidRequest(ValueError):
    """A request that cannot be carried out; its message is the one sentence that the user reads."""

"""Refuses workers that run another version of this package: their photos would not be what receipts say."""

from __future__ import annotations

import importlib.metadata
from typing import Any

PACKAGE = "rid-catalog"
NAMED = 5  # workers that the sentence names


class WrongWorkerVersion(RuntimeError):
    """Workers of the scheduler run another version of this package, or lack it."""


def check_versions(client: Any, checked: frozenset[str] = frozenset()) -> frozenset[str]:
    """Asks each worker that was not asked before for its version, and returns the addresses of all that are right.

    Args:
        client: a connected client.
        checked: addresses that were right before.

    Raises:
        WrongWorkerVersion: naming the workers and their versions.
    """
    addresses = set(client.scheduler_info(n_workers=-1)["workers"])
    unknown = sorted(addresses - checked)
    if not unknown:
        return frozenset(addresses)
    here = importlib.metadata.version(PACKAGE)
    answers = client.run(importlib.metadata.version, PACKAGE, workers=unknown, on_error="return")
    wrong = {address: answer for address, answer in answers.items() if answer != here}
    if wrong:
        named = ", ".join(f"{address} ({_version(answer)})" for address, answer in sorted(wrong.items())[:NAMED])
        raise WrongWorkerVersion(
            f"{len(wrong)} of {len(addresses)} workers do not run {PACKAGE} {here} as this process does: {named}; "
            "install the same version there and start them again"
        )
    return frozenset(addresses)


def _version(answer: object) -> str:
    return answer if isinstance(answer, str) else "not installed"

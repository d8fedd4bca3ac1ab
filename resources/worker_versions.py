"""Refuses workers that run another version of this package: their photos would not be what receipts say."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from rid.resources.scheduler_state import ANSWER_SECONDS, WorkersUnavailable, ask_scheduler

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
        WorkersUnavailable: if the scheduler or a worker does not answer.
    """
    addresses = set(ask_scheduler(client, "identity", n_workers=-1)["workers"])
    unknown = sorted(addresses - checked)
    if not unknown:
        return frozenset(addresses)
    here = importlib.metadata.version(PACKAGE)
    try:
        answers = client.run(
            importlib.metadata.version, PACKAGE, workers=unknown, on_error="return", callback_timeout=ANSWER_SECONDS
        )
    except TimeoutError as error:
        raise WorkersUnavailable(
            f"one of the workers {', '.join(unknown[:NAMED])} did not say its version within {ANSWER_SECONDS:g} s: "
            "end workers that hang, then run again"
        ) from error
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

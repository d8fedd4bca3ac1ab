"""Set up in every embedded worker process before its first task: Dask imports this module by name."""

from __future__ import annotations

import signal


def dask_setup(_: object) -> None:
    """Leaves Ctrl-C to the process that started the worker: a terminal sends it to both."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Whose the assets are, how many steps of a kind run at once, and how often a step is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import Backoff, Failure, Jitter, RetryPolicy

STORAGE_POOL = "storage_write"  # steps that read and write whole drops
GPU_POOL = "gpu"  # steps that fill a GPU
RETRIES = RetryPolicy(max_retries=2, delay=20, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
TRAINING_OWNERS = ["team:training"]
PROTECTION_OWNERS = ["team:protection"]


@contextmanager
def mistakes_are_final() -> Iterator[None]:
    """Makes a failure of a ValueError, whose cure is another configuration, and keeps it from being tried again."""
    try:
        yield
    except ValueError as error:
        raise Failure(str(error), allow_retries=False) from error

"""Skips or failures where a program that the tests need is not there."""

import os

import pytest


def missing_service(reason: str) -> None:
    """Skips, or fails where the services have to be there."""
    if os.environ.get("RID_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)

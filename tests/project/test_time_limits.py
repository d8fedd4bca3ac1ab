"""No test hangs for ever: it fails after a limit, or the session ends, with the stacks of what it waited in."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HANGS = """
import threading

def test_waits_for_ever():
    threading.Event().wait()

def test_comes_after():
    pass
"""
HANGS_DEAF = """
import signal
import threading

def test_waits_and_hears_no_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    threading.Event().wait()
"""


def run_pytest(file: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    file.write_text(code)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    return subprocess.run([*command, *options, str(file)], cwd=file.parent, capture_output=True, text=True, timeout=120)


def test_a_test_that_hangs_fails_with_its_stack_and_the_others_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path / "test_hangs.py", HANGS, "--timeout=2")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "Failed: Timeout (>2.0s) from pytest-timeout" in done.stdout
    assert "threading.Event().wait()" in done.stdout


def test_a_test_that_no_signal_ends_ends_the_session_with_its_stack(tmp_path: Path) -> None:
    options = ("--timeout=1", "-o", "faulthandler_timeout=3")
    done = run_pytest(tmp_path / "test_hangs.py", HANGS_DEAF, *options)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "Timeout (0:00:03)!" in done.stderr
    assert "in test_waits_and_hears_no_signal" in done.stderr


def test_every_test_has_a_limit() -> None:
    limits = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert 0 < limits["timeout"] < limits["faulthandler_timeout"]
    assert limits["faulthandler_exit_on_timeout"] is True

"""Runs `dagster dev` as a child: on the loopback interface, stopped cleanly, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS, STOP_SECONDS = 180, 45
LOCAL_INSTANCE = """\
telemetry:
  enabled: false
nux:
  enabled: false  # no dialog over the first page
concurrency:
  pools:
    granularity: op
    default_limit: 1  # a step that protects or trains fills this machine
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false  # runs whose process died; steps have their own policy
"""
ORPHANED = "its process ended together with Dagster: another run goes on from what it finished"


class DagsterDevFailed(RuntimeError):
    """`dagster dev` ended, or did not answer in time; the message has the end of its log."""


class DagsterDev:
    """`dagster dev` on this project's definitions; a context manager that waits until the web server answers."""

    def __init__(self, home: Path, environment: Mapping[str, str], port: int) -> None:
        """Prepares; nothing is started yet.

        Args:
            home: DAGSTER_HOME; dagster.yaml is written if it is not there.
            environment: added to this process's own.
            port: of the web server.
        """
        self.url = f"http://{HOST}:{port}"
        self.log = home / "dev.log"
        self._home, self._port = home, port
        self._environment = {**os.environ, "DAGSTER_HOME": str(home), **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DagsterDev:
        write_local_instance(self._home)
        end_orphaned_runs(self._home)
        command = [sys.executable, "-m", "dagster", "dev", "-h", HOST, "-p", str(self._port)]
        command += ["-m", "rid.dagster_project.definitions", "--log-level", "warning"]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops the child.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started is in its session
        process.wait()
        end_orphaned_runs(self._home)

    def wait(self) -> None:
        """Blocks until the child ends.

        Raises:
            DagsterDevFailed: when it ends: it should not by itself.
        """
        assert self._process is not None, "it was entered"
        self._process.wait()
        raise DagsterDevFailed(f"`dagster dev` ended: {self._tail()}")

    def _wait(self) -> None:
        assert self._process is not None, "it was started"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise DagsterDevFailed(f"`dagster dev` ended: {self._tail()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/server_info", timeout=2):
                return
            time.sleep(0.3)
        raise DagsterDevFailed(f"`dagster dev` did not answer in {START_SECONDS} s: {self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def end_orphaned_runs(home: Path) -> int:
    """Reports runs as failed whose processes are gone, so that they hold no pool and are tried again; returns how many.

    Nothing else may use the instance: a run of another process would be reported too.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    going = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    with DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_runs(RunsFilter(statuses=going))
        for run in runs:
            instance.report_run_failed(run, ORPHANED)
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(runs)


def write_local_instance(home: Path) -> None:
    """Writes dagster.yaml for one machine, unless there is one."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_text(LOCAL_INSTANCE, encoding="utf-8")


def free_port(first: int) -> int:
    """Returns the first port from `first` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tried.bind((HOST, port))
                return port
    raise DagsterDevFailed(f"no port from {first} to {first + 99} is free")

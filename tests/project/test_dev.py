"""`make dev`: everything starts, answers, and is gone after Ctrl-C."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster._core.instance.config import dagster_instance_config

from rid.dagster_project.dagster_dev import (
    DagsterDev,
    DagsterDevFailed,
    end_orphaned_runs,
    free_port,
    write_local_instance,
)
from rid.dagster_project.demo.dev import DROPS, write_drops

ROOT = Path(__file__).parents[2]


def test_example_drops_are_written_once(tmp_path: Path) -> None:
    write_drops(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path).parts[0] for path in files} == set(DROPS)
    write_drops(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files


def test_dagster_yaml_of_one_machine_is_valid_and_stays(tmp_path: Path) -> None:
    write_local_instance(tmp_path)
    settings, _ = dagster_instance_config(str(tmp_path))
    assert settings["concurrency"]["pools"]["default_limit"] == 1
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    write_local_instance(tmp_path)
    assert yaml.safe_load((tmp_path / "dagster.yaml").read_text()) == {"telemetry": {"enabled": False}}


def test_a_code_location_that_cannot_start_is_said(tmp_path: Path) -> None:
    broken = DagsterDev(tmp_path, {"PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(tmp_path / "nothing")}, free_port(3300))
    with pytest.raises(DagsterDevFailed, match="ended"), broken:
        pass


@pytest.mark.slow
def test_everything_starts_answers_and_stops(tmp_path: Path) -> None:
    port = free_port(3300)
    process = subprocess.Popen(
        [sys.executable, "-m", "rid.dagster_project.demo.dev", str(tmp_path / "demo"), "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RID_DROP_QUIET_SECONDS": "100000"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = {}
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
            if "  " in line:
                said[line.split()[0]] = line.split()[1]
        for name in ("Dagster", "reports"):
            assert said[name].startswith("http://127.0.0.1:")
            with urllib.request.urlopen(said[name], timeout=30) as answer:
                assert answer.status == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3, "the web server, the daemon and the code location"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert (process.returncode, out.strip()) == (0, "stopped")
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_runs_whose_processes_are_gone_are_ended_and_tried_again(tmp_path: Path) -> None:
    write_local_instance(tmp_path)

    @op(pool="one")
    def step() -> None: ...

    @job
    def work() -> None:
        step()

    with DagsterInstance.from_config(str(tmp_path)) as instance:
        going = instance.create_run_for_job(work, status=DagsterRunStatus.STARTED)
        queued = instance.create_run_for_job(work, status=DagsterRunStatus.NOT_STARTED)
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("one")
        assert storage.claim_concurrency_slot("one", going.run_id, "step").is_claimed
        assert not storage.claim_concurrency_slot("one", queued.run_id, "step").is_claimed
    assert end_orphaned_runs(tmp_path) == 1
    assert end_orphaned_runs(tmp_path) == 0
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        ended, waits = instance.get_run_by_id(going.run_id), instance.get_run_by_id(queued.run_id)
        assert (ended.status, ended.tags["dagster/will_retry"]) == (DagsterRunStatus.FAILURE, "true")
        assert waits.status == DagsterRunStatus.NOT_STARTED
        assert instance.event_log_storage.claim_concurrency_slot("one", queued.run_id, "step").is_claimed

"""An external scheduler over TLS with one CPU and one GPU-labelled worker, as processes of their own."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_processes import ROOT, Cluster, dask_processes, write_certificate
from small_catalogs import request_for, run, write_photos
from tiny_defender import write_tiny_defender
from worker_functions import Job, trace

from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.scheduler_state import WorkersUnavailable
from rid.resources.worker_versions import PACKAGE, WrongWorkerVersion

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    import dask
    import distributed  # noqa: F401 - its defaults have to be there before a test adds to them

    certificate = write_certificate(tmp_path)
    with dask_processes(tmp_path, certificate) as started, dask.config.set(certificate.settings()):
        yield started


def executed(client) -> dict[str, int]:
    """Tasks that each worker has finished, by its name."""
    names = {address: info["name"] for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
    counts = client.run(lambda dask_worker: dask_worker.state.executed_count)
    return {names[address]: count for address, count in counts.items()}


def test_a_cpu_and_a_gpu_worker_protect_together_over_tls(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker("cpu")
    cluster.worker("gpu", "--resources", "GPU=1")
    write_photos(tmp_path / "photos", 400)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    settings = WorkerSettings(scheduler=cluster.address)
    assert cluster.address.startswith("tls://127.0.0.1:")
    with Workers(settings) as workers:
        workers.client().wait_for_workers(2, timeout=60)
        before = executed(workers.client())
    summary = run(request, settings)
    assert (summary.protected, summary.shards_written) == (400, 7)
    with Workers(settings) as workers:
        after = executed(workers.client())
        assert all(after[name] > before[name] for name in ("cpu", "gpu")), after
        tasks = [Job(f"t{i}", str(tmp_path)) for i in range(6)]
        assert len(list(workers.run(trace, tasks, prefix="train", expected=6, gpu=True))) == 6
        routed = executed(workers.client())
        assert routed["gpu"] == after["gpu"] + 6, "what asks for a GPU goes to the worker that offers one"


def test_the_command_line_takes_the_certificate_from_dasks_own_settings(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker("cpu")
    write_photos(tmp_path / "photos", 3)
    write_tiny_defender(tmp_path / "defender")
    command = [sys.executable, "-m", "rid.dagster_project.cli", "protect", "photos", "out", "--defender", "defender"]
    done = subprocess.run(
        [*command, "--scheduler", cluster.address],
        cwd=tmp_path,
        env=cluster.environment | {"PYTHONPATH": str(ROOT), "RID_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "3 photos: 3 protected" in done.stdout


def test_without_the_certificate_nobody_gets_in(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.worker("cpu")
    from dask import config as dask_config

    monkeypatch.setattr("rid.resources.dask_workers.CONNECT_SECONDS", 3)
    tls = ("ca-file", "client.cert", "client.key")
    with dask_config.set({f"distributed.comm.tls.{name}": None for name in tls}):
        workers = Workers(WorkerSettings(scheduler=cluster.address))
        with pytest.raises(WorkersUnavailable, match="no certificate is configured here"), workers:
            workers.client()


def test_a_worker_of_another_version_is_refused_with_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    older = tmp_path / "older" / "rid_catalog-0.0.1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.0.1\n")
    cluster.worker("same")
    with Workers(WorkerSettings(scheduler=cluster.address)) as workers:
        assert len(list(workers.run(trace, [Job("a", str(tmp_path))], prefix="v", expected=1))) == 1
        cluster.worker("older", path=str(older.parent))
        workers._client.wait_for_workers(2, timeout=60)
        with pytest.raises(WrongWorkerVersion, match=r"1 of 2 workers .*\(0\.0\.1\)") as refused:
            list(workers.run(trace, [Job("b", str(tmp_path))], prefix="v", expected=1))
    assert importlib.metadata.version(PACKAGE) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "b").exists()

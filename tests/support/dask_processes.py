"""A Dask scheduler and workers as an operator starts them: processes of their own, over TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Certificate:
    """One certificate for scheduler, workers and clients, signed by itself."""

    file: Path
    key: Path

    def settings(self) -> dict[str, str]:
        """Dask's configuration."""
        return {
            "distributed.comm.tls.ca-file": str(self.file),
            **{f"distributed.comm.tls.{role}.cert": str(self.file) for role in ("scheduler", "worker", "client")},
            **{f"distributed.comm.tls.{role}.key": str(self.key) for role in ("scheduler", "worker", "client")},
        }

    def environment(self) -> dict[str, str]:
        """The same as Dask reads it from the environment."""
        return {f"DASK_{k.upper().replace('.', '__').replace('-', '_')}": value for k, value in self.settings().items()}


def write_certificate(folder: Path) -> Certificate:
    """Writes a self-signed certificate of 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rid tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    encoding = serialization.Encoding.PEM
    made.key.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    return made


@dataclass
class Cluster:
    """A running scheduler."""

    address: str
    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def worker(self, name: str, *options: str, path: str = "") -> None:
        """Starts a worker of one thread; `path` comes first on its module path."""
        command = ["worker", self.address, "--nthreads", "1", "--name", name, "--no-dashboard", *options]
        paths = f"{path}{os.pathsep}{self.environment['PYTHONPATH']}".lstrip(os.pathsep)
        self.processes.append(_dask(self.folder, name, command, self.environment | {"PYTHONPATH": paths}))


@contextmanager
def dask_processes(folder: Path, certificate: Certificate) -> Iterator[Cluster]:
    """Runs a scheduler on a free port of the loopback interface, and stops it and its workers at the end."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"  # a scheduler reads tasks too
    environment = os.environ | certificate.environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    place = folder / "scheduler.json"
    command = ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = _dask(folder, "scheduler", [*command, "--scheduler-file", str(place)], environment)
    cluster = Cluster("", folder, environment, [scheduler])
    try:
        cluster.address = _address(place, scheduler, folder)
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.terminate()
        for process in cluster.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _dask(folder: Path, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )


def _address(place: Path, scheduler: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and scheduler.poll() is None:
        try:
            return str(json.loads(place.read_text())["address"])
        except (FileNotFoundError, ValueError):
            time.sleep(0.1)
    raise RuntimeError(f"the scheduler did not start: {(folder / 'scheduler.log').read_text()[-2000:]}")

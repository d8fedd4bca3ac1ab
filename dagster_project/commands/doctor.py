"""`rid doctor`: what is installed, what works, and the licence and the gates of the weights."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import sys

from rid.dagster_project import exit_codes
from rid.dagster_project.settings import rid_home

PACKAGES = (
    "rid-catalog",
    "dagster",
    "dask",
    "deltalake",
    "pyarrow",
    "s3fs",
    "onnxruntime",
    "pillow",
    "numpy",
    "torch",
    "diffusers",
)


def doctor() -> int:
    """Prints the state of this machine and returns 0 if protecting works here."""
    from rid.training.evaluation.gates.figures import figures_in, summary, verdict

    print(f"python            {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}")
    for name in PACKAGES:
        print(f"{name:17} {_version(name)}")
    sound = _probe_storage()
    _print_hardware()
    for entry in rid_home().registry().entries():
        names = ", ".join(entry.aliases) or "-"
        print(f"defender          {entry.digest[:12]} {entry.name} ({names})")
        print(f"                  {entry.config['description']}")
        print(f"                  licence: {entry.config['licence']}")
        figures = figures_in(entry.config)
        print(f"                  gates: {verdict(figures)}")
        for line in summary(figures) if figures is not None else ():
            print(f"                  {line}")
    print("bind addresses    embedded Dask workers listen on 127.0.0.1 alone, behind a temporary TLS key;")
    print("                  `dagster dev` listens on 127.0.0.1:3000: put an authenticating proxy in front of it")
    return exit_codes.OK if sound else exit_codes.INTERNAL_ERROR


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed" + (
            " (needed to train and to evaluate: extra `train`)" if package in ("torch", "diffusers") else ""
        )


def _probe_storage() -> bool:
    """Writes, conditionally writes, reads and deletes a file under RID_HOME."""
    storage = rid_home().storage
    name = f"probe-{secrets.token_hex(6)}"
    try:
        first, second = storage.create_bytes(name, b"1"), storage.create_bytes(name, b"2")
        read = storage.read_bytes(name)
        storage.delete(name)
    except OSError as error:
        print(f"RID_HOME          {storage.url}: FAILED, {type(error).__name__}")
        return False
    sound = first and not second and read == b"1"
    outcome = "conditional write, read and delete work" if sound else "FAILED: no conditional write"
    print(f"RID_HOME          {storage.url}: {outcome}")
    return sound


def _print_hardware() -> None:
    from rid.models.engines import available_providers
    from rid.resources.local_clusters import cores, visible_gpus

    print(f"cores             {cores()}")
    print(f"GPUs              {', '.join(visible_gpus()) or 'none'}")
    print(f"providers         {', '.join(available_providers())}")

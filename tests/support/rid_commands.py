"""Runs `rid` as a user does: real processes in a folder that holds a tiny defender."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from small_catalogs import tree

from rid.resources.commits import ProtectedTable
from rid.resources.storage import Storage

RID = [sys.executable, "-m", "rid.dagster_project.cli"]
ROOT = Path(__file__).parents[2]


def environment(place: Path, **more: str) -> dict[str, str]:
    """Returns the environment of a run: this checkout, and a home of its own."""
    path = os.pathsep.join(p for p in sys.path if p.endswith("poison"))
    return os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "RID_HOME": str(place / "home")} | more


def start(place: Path, *arguments: str, prefix: tuple[str, ...] = (), **more: str) -> "subprocess.Popen[str]":
    """Starts `rid` in a process group of its own, through the command `prefix` if there is one."""
    return subprocess.Popen(
        [*prefix, *RID, *arguments],
        cwd=place,
        env=environment(place, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rid(place: Path, *arguments: str, prefix: tuple[str, ...] = (), **more: str) -> tuple[int, str, str]:
    """Runs `rid` and returns its exit code, stdout and stderr; `more` goes to its environment."""
    process = start(place, *arguments, prefix=prefix, **more)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def protect(
    place: Path, source: str, target: str, *arguments: str, workers: int = 2, prefix: tuple[str, ...] = (), **more: str
) -> tuple[int, dict, str]:
    """Runs `rid protect` with the tiny defender and returns its exit code, summary and stderr."""
    options = ("--defender", "defender", "--workers", str(workers), "--json")
    code, out, err = rid(place, "protect", source, target, *options, *arguments, prefix=prefix, **more)
    return code, json.loads(out) if out else {}, err


def wait_for_shards(url: str, count: int) -> None:
    """Blocks until so many shards lie in a target."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = [e for e in Storage(url).list_files() if "/drop=" in f"/{e.path}" and e.path.endswith(".parquet")]
        if len(done) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} shards appeared")


def clean_tree(url: str | Path) -> dict[str, str]:
    """Returns what a reader sees: everything but the table's log, whose commits carry their time."""
    return tree(url, without=("_rid/_delta_log", "_rid/_state", "_delta_log"))


def keys_of(target: str | Path, drop: str = "d") -> list[str]:
    """The keys of a drop's rows in a folder target's receipts or in a table."""
    url = str(target)
    table = ProtectedTable(Storage(f"{url}/_rid" if Storage(f"{url}/_rid/_delta_log").is_folder() else url))
    return sorted(table.read(drop, ["key"]).column(0).to_pylist()) if table.exists() else []

"""A catalog of a million rows, 0.1 % of them bad: `python -m benchmarks.million_rows`.

Real `rid protect`, `rid verify` and a second run, with worker processes, on Parquet files of small JPEGs; every
thousandth row is damaged. The defender is the smallest size with random weights: what is measured is the system around
it. Prints, for each tenth of the catalog, the memory of the driver and of the largest worker, and at
the end whether every row is accounted for.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rid.models.budget import BudgetRange
from rid.models.checkpoint import DefenderCard, save_defender
from rid.models.defender import SIZES, Defender
from rid.resources.commits import ProtectedTable
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage
from rid.training.exporting import add_onnx

SIDE = 48  # pixels of a photo
FILE_ROWS = 20_000
GROUP_ROWS = 500
DISTINCT = 500  # pictures; each row gets its own bytes by a comment
BAD_EVERY = 1000


@dataclass
class Memory:
    """Resident bytes of a process and its descendants, sampled while it runs.

    Pages of mapped files are left out: the kernel drops them when memory is short.

    Attributes:
        driver: (seconds, bytes) samples of the process itself.
        largest: (seconds, bytes) of the largest descendant.
    """

    driver: list[tuple[float, int]] = field(default_factory=list)
    largest: list[tuple[float, int]] = field(default_factory=list)

    def watch(self, process: psutil.Process, began: float) -> None:
        """Samples twice a second until the process ends."""
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            try:
                now, below = time.monotonic() - began, process.children(recursive=True)
                self.driver.append((now, private(process)))
                self.largest.append((now, max(map(private, below), default=0)))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.5)


def private(process: psutil.Process) -> int:
    """Returns the resident bytes of a process that are not pages of files."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def write_catalog(folder: Path, rows: int) -> None:
    """Writes Parquet files of JPEGs; every BAD_EVERY-th row has half of its bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(40, 216, (6, 6, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    for start in range(0, rows, FILE_ROWS):
        images = []
        for row in range(start, min(start + FILE_ROWS, rows)):
            data = pictures[row % DISTINCT]
            comment = f"row {row:09d}".encode()
            data = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
            images.append({"bytes": data[: len(data) // 2] if row % BAD_EVERY == 0 else data, "path": f"{row:09d}.jpg"})
        table = pa.table({"image": pa.array(images, IMAGE)})
        pq.write_table(table, folder / f"part-{start:09d}.parquet", row_group_size=GROUP_ROWS, compression="none")


def write_defender(folder: Path) -> None:
    """Writes the smallest defender with a random last layer."""
    torch.manual_seed(0)
    budget = BudgetRange(1, 16, 6)
    defender = Defender(SIZES["tiny-32"], budget)
    torch.nn.init.normal_(defender.linear.weight, std=0.5)
    card = DefenderCard("stub", "Random weights, for benchmarks.", budget, "MIT", "benchmarks")
    save_defender(folder, defender, card)
    add_onnx(folder)


def rid(folder: Path, *arguments: str) -> tuple[int, float, Memory, str]:
    """Runs `rid`; returns its exit code, seconds, memory and what it printed."""
    command = [sys.executable, "-m", "rid.dagster_project.cli", *arguments]
    began, memory = time.monotonic(), Memory()
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        watcher = threading.Thread(target=memory.watch, args=(psutil.Process(process.pid), began))
        watcher.start()
        out, _ = process.communicate()
        watcher.join()
    return process.returncode, time.monotonic() - began, memory, out


def peaks(samples: list[tuple[float, int]], parts: int = 10) -> str:
    """The largest sample of each part of the time, in MiB."""
    end = samples[-1][0]
    found = [max((size for at, size in samples if at <= end * (i + 1) / parts), default=0) for i in range(parts)]
    return " ".join(f"{size / 2**20:.0f}" for size in found)


def measure(folder: Path, rows: int, workers: int) -> None:
    """Protects, protects again, verifies, counts."""
    write_catalog(folder / "photos", rows)
    write_defender(folder / "stub")
    target = str(folder / "out")
    command = ("protect", str(folder / "photos"), target, "--defender", str(folder / "stub"), "--drop", "d", "--json")
    for name, arguments in (
        ("protect", (*command, "--workers", str(workers))),
        ("protect again", (*command, "--workers", str(workers))),
        ("verify", ("verify", target, "--json")),
    ):
        code, seconds, memory, out = rid(folder, *arguments)
        if code not in (0, 3):
            raise SystemExit((folder / "errors.txt").read_text())
        print(f"{name}: exit {code}, {seconds:.0f} s, {rows / seconds:.0f} rows/s")
        print(f"  driver, MiB at most, by tenths of the time: {peaks(memory.driver)}")
        print(f"  largest worker, MiB: {peaks(memory.largest)}", flush=True)
        if name == "protect":
            summary = json.loads(out)
            print(f"  {summary['protected']} protected, quarantined {summary['quarantined']}")
    table = ProtectedTable(Storage(target))
    keys, status = set(), {"protected": 0, "quarantined": 0, "skipped": 0}
    for batch in table.iter_batches("d", ["key", "status"]):
        keys |= set(batch.column("key").to_pylist())
        for value in batch.column("status").to_pylist():
            status[value] += 1
    bad = -(-rows // BAD_EVERY)
    exact = len(keys) == rows == sum(status.values()) and status["quarantined"] == bad
    print(f"rows in {rows}, rows out {sum(status.values())}, distinct {len(keys)}, {status}: exact {exact}")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.rows, options.workers)


if __name__ == "__main__":
    main()

"""The cost of the child process that guards each photo: `python -m benchmarks.guard_overhead`.

The same shards of seeded 512 x 512 JPEGs, from files to files, with the guard and without, in turn. Seconds of wall
clock and of CPU, those of the child included; the start of the child is printed apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import psutil

from benchmarks.throughput import SHIPPED, write_photos
from rid.assets.catalog.plan import plan_shards
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import catalogue, drop_work
from rid.assets.protection.shards.task import protect_shard, protector_of
from rid.assets.protection.shards.work import ShardTask, ShardWork
from rid.assets.protection.targets import Target
from rid.models.policy import ProtectionPolicy
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.storage import Storage


def plan(folder: Path, photos: int) -> list[ShardTask]:
    """Writes photos and plans their shards."""
    (folder / "photos").mkdir()
    write_photos(folder / "photos", photos)
    request = ProtectionRequest(
        source=Storage(str(folder / "photos")),
        target=Target(Storage(str(folder / "out")), "files"),
        drop="d",
        defender=DefenderRegistry(Storage(str(folder / "home")), SHIPPED.parent).resolve("default"),
        policy=ProtectionPolicy(),
        budget_levels=json.loads((SHIPPED / "config.json").read_text())["budget"]["default"],
    )
    with Workers(WorkerSettings(n_workers=0)) as here:
        catalog = catalogue(request, here)
    drop = drop_work(request, catalog, guarded=False)
    return [ShardTask(drop, ShardWork(shard)) for shard in plan_shards(catalog, request.salt())]


def measure(tasks: Sequence[ShardTask]) -> tuple[float, float]:
    """Seconds of wall clock and of CPU for all shards, which are not there yet."""
    shutil.rmtree(f"{tasks[0].drop.receipts.url}/drop=d", ignore_errors=True)
    began, cpu = time.perf_counter(), cpu_s()
    for task in tasks:
        protect_shard(task)
    return time.perf_counter() - began, cpu_s() - cpu


def cpu_s() -> float:
    """CPU-seconds of this process and its children so far."""
    me = psutil.Process()
    return sum(p.cpu_times().user + p.cpu_times().system for p in (me, *me.children()))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard_overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=192, help="512 x 512 photos a round (192)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of both variants (7)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        plain = plan(Path(folder), options.photos)
        guarded = [replace(task, drop=replace(task.drop, guarded=True)) for task in plain]
        protector_of(plain[0].drop)
        began = time.perf_counter()
        protector_of(guarded[0].drop)
        started = time.perf_counter() - began
        measure(plain), measure(guarded)
        rows = []
        for turn in range(options.rounds):
            pair = {}
            for tasks in (plain, guarded) if turn % 2 else (guarded, plain):
                pair[tasks[0].drop.guarded] = measure(tasks)
            rows.append((pair[False], pair[True]))
    print(f"{options.rounds} rounds of {options.photos} photos; a child starts in {started:.2f} s")
    for which, name in enumerate(("wall", "CPU")):
        ratios = sorted(with_guard[which] / without[which] for without, with_guard in rows)
        before, after = (statistics.median(row[i][which] for row in rows) / options.photos for i in (0, 1))
        print(
            f"{name}-ms a photo: {1000 * before:.2f} without, {1000 * after:.2f} with the guard; "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()

"""Times what an operator waits for with many small drops: `python -m benchmarks.many_drops`.

Real parts: photos in folders, the shipped defender, embedded Dask workers, an SQLite instance, and `dagster dev` for
the backfill. The reports measure no diffusion model, since that takes the same time however many drops there are.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from dagster import DagsterInstance, DefaultSensorStatus, build_sensor_context
from PIL import Image

from rid.assets.partitions import DROPS
from rid.assets.protection.options import ProtectionOptions, protection_settings
from rid.dagster_project.automation import drop_sensor
from rid.dagster_project.dagster_dev import DagsterDev, free_port, write_local_instance
from rid.dagster_project.definitions import defs
from rid.dagster_project.deployments import deployment
from rid.dagster_project.drop_runs import FIRST, LAST, outdated_drops

Result = TypeVar("Result")

SIDES = (96, 80)  # of a photo, pixels
CONFIG = {"ops": {"drop_chain": {"config": {"report": {"models": []}}}}}
QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
LAUNCH = """mutation($p: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $p) { __typename ... on LaunchBackfillSuccess { backfillId } }
}"""
STATE = """query($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
  runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
    ... on Runs { results { status creationTime startTime endTime } } }
}"""


def main() -> None:
    """Writes the drops, protects them once, and times everything that comes before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drops", type=int, default=300)
    parser.add_argument("--photos", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.drops, options.photos)


def measure(folder: Path, drops: int, photos: int) -> None:
    """Prints one line a measurement."""
    names = [f"drop-{i:04d}" for i in range(drops)]
    write_photos(folder / "photos", names, photos)
    environment = {
        "RID_HOME": str(folder / "home"),
        "RID_SOURCE": str(folder / "photos"),
        "RID_DROP_QUIET_SECONDS": "0",
        "DAGSTER_HOME": str(folder / "dagster"),
    }
    os.environ |= environment
    write_local_instance(folder / "dagster")
    say(f"{drops} drops x {photos} photos of {SIDES[0]} x {SIDES[1]} pixels", "")
    with DagsterInstance.from_config(str(folder / "dagster")) as instance:
        measure_before(instance)
        job = defs().resolve_job_def("protect_drop")
        for title in ("protect all in one run", "the same run again, nothing to do"):
            result, seconds = timed(
                lambda: job.execute_in_process(
                    instance=instance, run_config=CONFIG | QUIET, tags={FIRST: names[0], LAST: names[-1]}
                )
            )
            assert result.success
            say(title, f"{seconds:.1f} s, {1000 * seconds / drops:.0f} ms a drop")
        measure_after(instance)
    with DagsterDev(folder / "dagster", environment, free_port(3700)) as dagster:
        measure_backfill(dagster.url, names)


def measure_before(instance: DagsterInstance) -> None:
    """Times the drop sensor while the drops arrive, and the list of partitions."""
    cursor = None
    for title in ("sensor tick, all drops new", "sensor tick, nothing new"):
        context = build_sensor_context(instance=instance, cursor=cursor, resources={"places": _here().places})
        result, seconds = timed(lambda: drop_sensor(_here(), DefaultSensorStatus.STOPPED)(context))  # noqa: B023
        cursor = result.cursor
        runs = len(result.run_requests or ())
        say(title, f"{1000 * seconds:.0f} ms, {runs} runs requested, cursor {len(cursor)} characters")
        for request in result.dynamic_partitions_requests or ():
            _, seconds = timed(lambda: instance.add_dynamic_partitions(DROPS, request.partition_keys))  # noqa: B023
            say("adding the partitions", f"{1000 * seconds:.0f} ms")
    names, seconds = timed(lambda: instance.get_dynamic_partitions(DROPS))
    say("partition list", f"{1000 * seconds:.0f} ms, {len(names)} drops")


def measure_after(instance: DagsterInstance) -> None:
    """Times what the schedule asks for once everything is protected, and after a promotion."""
    settings = protection_settings(ProtectionOptions(), _here().places.rid_home())
    names, seconds = timed(lambda: outdated_drops(instance, settings))
    say("schedule: finding outdated drops", f"{1000 * seconds:.0f} ms, {len(names)} found")
    other = protection_settings(ProtectionOptions(budget_levels=4), _here().places.rid_home())
    names, seconds = timed(lambda: outdated_drops(instance, other))
    say("schedule: the same under another budget", f"{1000 * seconds:.0f} ms, {len(names)} found")


def measure_backfill(url: str, names: list[str]) -> None:
    """Launches a backfill over all drops as the web interface does, and times the daemon and the run."""
    assets = [{"path": [name]} for name in ("photo_catalog", "protected_catalog", "protection_report")]
    parameters = {"assetSelection": assets, "partitionNames": names, "runConfigData": json.dumps(CONFIG)}
    began = time.time()
    launched, seconds = timed(lambda: graphql(url, LAUNCH, {"p": parameters}))
    backfill = launched["launchPartitionBackfill"]["backfillId"]
    say("backfill: accepted by the web server", f"{1000 * seconds:.0f} ms")
    while True:
        state = graphql(url, STATE, {"id": backfill})
        runs = state["runsOrError"]["results"]
        if runs and all(run["status"] in ("SUCCESS", "FAILURE") for run in runs):
            break
        time.sleep(0.5)
    assert [run["status"] for run in runs] == ["SUCCESS"]
    (run,) = runs
    say("backfill: planned, its one run created", f"{run['creationTime'] - began:.1f} s after the launch")
    say("backfill: the run, nothing to do", f"{run['endTime'] - run['startTime']:.1f} s")


def write_photos(folder: Path, names: list[str], photos: int) -> None:
    """Writes smooth coloured pictures, different for each photo."""
    random = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(photos):
            coarse = Image.fromarray(random.integers(60, 196, size=(5, 5, 3), dtype=np.uint8))
            coarse.resize(SIDES, Image.Resampling.BICUBIC).save(folder / name / f"{i:03d}.jpg", quality=92)


def graphql(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Asks Dagster."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    assert "errors" not in found, found
    data: dict[str, Any] = found["data"]
    return data


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """Returns the result of a call and its wall time in seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def say(what: str, result: str) -> None:
    """Prints one line."""
    print(f"{what:44} {result}", flush=True)


def _here() -> Any:
    return deployment(os.environ)


if __name__ == "__main__":
    main()

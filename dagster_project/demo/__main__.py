"""Runs the demo.

    python -m rid.dagster_project.demo [FOLDER]

Everything goes under FOLDER, by default `demo` here. A second run finds everything done and writes nothing new.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rid.dagster_project.dagster_dev import write_local_instance
from rid.dagster_project.demo.places import DAGSTER, FILES, HOME, SOURCE, STRIP

if TYPE_CHECKING:
    from rid.dagster_project.demo.chain import Stage

STRIP_PHOTO = "portraits/astronaut.jpg"


def main() -> None:
    """Makes the catalog, runs the chain, protects the files too, and says where everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--quick", action="store_true", help="train a few steps only: to try the chain, not to measure")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    began = monotonic()
    _prepare(folder)
    from rid.dagster_project.demo.catalog import write_demo_photos
    from rid.dagster_project.demo.chain import DROP, DemoSettings, run_chain
    from rid.resources.rid_home import POLICY

    settings = DemoSettings(teacher_steps=2, training_steps=30, report_photos=6) if options.quick else DemoSettings()
    _set_policy(folder / HOME / POLICY, settings.budget_levels)
    written = write_demo_photos(folder / SOURCE / DROP)
    _say("photos", f"{written} files written" if written else "there already", monotonic() - began)
    from dagster import DagsterInstance

    from rid.dagster_project.definitions import defs

    with DagsterInstance.from_config(str(folder / DAGSTER)) as instance:
        stages = run_chain(defs(), instance, settings, _say_stage)
    _protect_files(folder / SOURCE / DROP, folder)
    _conclude(folder, stages["protected_catalog"], monotonic() - began)


def _prepare(folder: Path) -> None:
    """Points this process, and the workers that it starts, to the demo's own places."""
    for name in (SOURCE, HOME, DAGSTER):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_local_instance(folder / DAGSTER)
    os.environ |= {
        "RID_HOME": str(folder / HOME),
        "RID_SOURCE": str(folder / SOURCE),
        "DAGSTER_HOME": str(folder / DAGSTER),
    }
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # here and in workers
    # There is a worker a core: threads of torch beside them would wait for each other, which costs as much as work.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("RID_SCHEDULER", None)
    from dagster import BetaWarning

    warnings.filterwarnings("ignore", category=BetaWarning)


def _set_policy(file: Path, budget_levels: int) -> None:
    """Gives the demo's deployment a policy; one that is there stays."""
    if not file.exists():
        file.write_text(f'{{"budget_levels": {budget_levels}}}\n', encoding="utf-8")


def _protect_files(photos: Path, folder: Path) -> None:
    """The same photos as files, by the defender that ships: what `rid protect` does for a user."""
    from rid.assets.protection.options import ProtectionOptions
    from rid.assets.protection.run import run_drop
    from rid.dagster_project.commands.protect import build_request
    from rid.dagster_project.demo.pictures import write_strip
    from rid.dagster_project.settings import WEIGHTS
    from rid.models.policy import ProtectionPolicy
    from rid.resources.dask_workers import Workers, WorkerSettings

    started = monotonic()
    request = build_request(
        str(photos),
        str(folder / FILES),
        None,
        ProtectionOptions(defender=str(WEIGHTS / "default"), policy=ProtectionPolicy()),
    )
    with Workers(WorkerSettings()) as workers:
        summary = run_drop(request, workers)
    done = f"{summary.photos_computed} photos protected" if summary.committed else "nothing to do"
    _say("rid protect", f"{done}, by the defender that ships", monotonic() - started)
    write_strip(photos / STRIP_PHOTO, folder / FILES / STRIP_PHOTO, request.budget_levels, folder / STRIP)


def _say_stage(stage: Stage) -> None:
    shown = {name: value for name, value in stage.metadata.items() if isinstance(value, int | float | str | bool)}
    short = {name: value for name, value in shown.items() if len(str(value)) <= 40 and not name.startswith("dagster")}
    _say(stage.asset, ", ".join(f"{name} {value}" for name, value in list(short.items())[:4]), stage.seconds)


def _say(what: str, result: str, seconds: float) -> None:
    print(f"{what:22} {seconds:6.1f} s  {result}", flush=True)


def _conclude(folder: Path, protected: Stage, seconds: float) -> None:
    from rid.dagster_project.demo.chain import DROP

    found: dict[str, Any] = protected.metadata
    reasons = ", ".join(f"{row.data['photos']} {row.data['reason']}" for row in found["quarantine"].records)
    print(
        f"""
{found["photos"]} photos in {seconds:.0f} s: {found["protected"]} protected, {found["skipped"]} skipped, \
{found["quarantined"]} quarantined ({reasons})

protected photos   {folder / FILES}  (files, by the defender that ships)
                   {folder / HOME / "protected"}  (Delta table, by the demo's throw-away defender)
receipts           {folder / FILES / "_rid"}, and in the table
report             {folder / HOME / "reports" / DROP / "index.html"}
clean / protected / amplified difference
                   {folder / STRIP}

The demo's defender was trained for seconds against one small model. It shows the chain and protects nobody."""
    )


if __name__ == "__main__":
    main()

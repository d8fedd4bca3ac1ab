"""Memory of a training over many photos: `python -m benchmarks.training_scale`.

For each number of photos a driver prepares a training as `rid train` and the asset `defender` do, with two worker
processes: it plans and cuts squares, selects what a teacher gets, and gathers perturbations beside their squares. A
process beside it draws batches as the trainer does. Both are processes of their own, whose peak of resident memory is
printed, mapped files included.

Up to `--decoded` photos are JPEGs in Parquet files, indexed and cut as `photo_catalog` and `defender` do it, every
thousandth damaged. Beyond that catalog and squares are made up: the tasks write random squares of their photos instead
of decoded ones, real files of full size, so that driver and trainer do what they do with photos. One photo in
`--pair-every` has a perturbation.

The last line is for machines: photos, peaks in MiB of driver and trainer, and batches a second, by number of photos.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rid.assets.catalog.index import PhotoIndex, index_source
from rid.assets.catalog.plan import read_current, write_catalog
from rid.assets.teaching import photo_cache
from rid.assets.teaching.array_files import ArrayWriter
from rid.assets.teaching.photo_cache import SquaresTask
from rid.assets.teaching.run_photos import Perturbed, load_photo_set, plan_photos
from rid.assets.teaching.teacher_cache import Selection, TeacherCache
from rid.assets.teaching.teacher_units import CutDrop, UnitPlan
from rid.resources.catalogs import ParquetLayout, SourceListing
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.schemas import CATALOG
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit, photo_digest

SIDE = 64
BUDGET = 8
PARQUET_ROWS = 20_000  # rows of a made-up Parquet file
BATCH, PAIR_BATCH = 64, 16


def peak_mib() -> int:
    """Returns the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def make_up_squares(task: SquaresTask) -> int:
    """Writes random squares in place of decoded ones; what `photo_cache.cut_squares` does but for the photos."""
    random = np.random.default_rng(int(task.name[:8], 16))
    digests = []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "squares.npy"
        with ArrayWriter(file, (task.side, task.side, 3), np.uint8) as writer:
            for _ in range(task.rows):
                square = random.integers(0, 256, (task.side, task.side, 3), dtype=np.uint8)
                writer.append(square)
                digests.append(photo_digest(square))
        index = {"rows": list(range(task.rows)), "digests": digests}
        task.folder.write_bytes(f"{task.name}.json", json.dumps(index).encode())
        task.folder.write_file(f"{task.name}.npy", file)
    return task.rows


def make_up_catalog(state: Storage, photos: int) -> None:
    """Writes the catalog of a drop of Parquet files that do not exist."""

    def column(field: pa.Field) -> pa.Array:
        numbers = np.arange(photos)
        if field.name == "key":
            return pa.array([f"{number:09d}.jpg" for number in numbers])
        if field.name == "source_uri":
            return pa.array([f"/nowhere/{number // PARQUET_ROWS:06d}.parquet" for number in numbers])
        if field.name == "input_sha256":
            return pa.array([hashlib.sha256(str(number).encode()).hexdigest() for number in numbers])
        if field.name in ("row_group", "row_in_group"):
            return pa.array(numbers % PARQUET_ROWS // 500 if field.name == "row_group" else numbers % 500, field.type)
        return (
            pa.nulls(photos, field.type)
            if field.nullable
            else pa.array(["" if field.type == pa.string() else 0] * photos, field.type)
        )

    rows = pa.Table.from_arrays([column(field) for field in CATALOG], schema=CATALOG)
    listing = SourceListing("parquet", Storage("/nowhere"), [], 0, ParquetLayout("image", pa.schema([])))
    write_catalog(state, "d", PhotoIndex(rows, listing, "", 0), None)


def set_up(folder: Path, photos: int, decoded: bool) -> None:
    """Writes the drop's catalog, and before it the photos if they are to be decoded."""
    if not decoded:
        make_up_catalog(Storage(str(folder / "state")), photos)
        return
    from benchmarks.million_rows import write_catalog as write_photos  # with torch, which a driver does without

    write_photos(folder / "photos", photos)
    with Workers(WorkerSettings(n_workers=2, use_gpus=False)) as workers:
        write_catalog(Storage(str(folder / "state")), "d", index_source(Storage(str(folder / "photos")), workers), None)


def make_up_perturbations(drop: CutDrop, teacher: TeacherCache, every: int) -> tuple[Unit, ...]:
    """Selects a share of the squares as `teacher_run` does and writes perturbations, as a teacher leaves them."""
    random, units = np.random.default_rng(0), []
    for unit in UnitPlan(drop, Selection(1 / every, seed=0), teacher).units():
        shape = (len(unit.photos), drop.squares.side, drop.squares.side, 3)
        teacher.write(unit.address, random.integers(-BUDGET, BUDGET + 1, shape, dtype=np.int8))
        units.append(unit)
    return tuple(units)


def drive(folder: Path, every: int, decoded: bool) -> dict[str, float]:
    """Prepares a training as the asset does: without perturbations first, since those are made of its squares."""
    home, catalog = Storage(str(folder / "home")), read_current(Storage(str(folder / "state")), "d")
    assert catalog is not None
    if not decoded:
        from benchmarks.training_scale import make_up_squares as cut  # by the name under which workers import it

        photo_cache.cut_squares = cut
    run, base = home.child("training", "run"), peak_mib()
    with Workers(WorkerSettings(n_workers=2, use_gpus=False)) as workers:
        began = time.monotonic()
        plan = plan_photos(home, SIDE, {"d": catalog})
        plan.prepare(workers, run)
        cut_s, cut_mib = time.monotonic() - began, peak_mib()
        teacher = TeacherCache(home.child("perturbations", "made-up"))
        began = time.monotonic()
        drop = CutDrop(plan.cache, catalog, plan.cache.cut(workers, catalog))
        units = make_up_perturbations(drop, teacher, every)
        select_s = time.monotonic() - began
        plan = replace(plan, perturbed=Perturbed(teacher, units, BUDGET))
        began = time.monotonic()
        prepared = plan.prepare(workers, run)
        pairs_s = time.monotonic() - began
    return {
        "photos": prepared.photos,
        "left_out": prepared.left_out,
        "pairs": prepared.perturbations,
        "base_mib": base,
        "cut_mib": cut_mib,
        "peak_mib": peak_mib(),
        "cut_s": cut_s,
        "select_s": select_s,
        "pairs_s": pairs_s,
    }


def draw(folder: Path, seconds: float) -> dict[str, float]:
    """Draws batches as the trainer does, for some seconds."""
    from rid.training.batches import draw_batch
    from rid.training.recipes import recipe

    config = replace(recipe("faces_64"), batch=BATCH, pair_batch=PAIR_BATCH)
    base = peak_mib()
    home = Storage(str(folder / "home"))
    began = time.monotonic()
    photos = load_photo_set(home, home.child("training", "run"), folder / "fetched")
    opened = time.monotonic() - began
    began, cpu, step = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < seconds:
        draw_batch(photos, config, step)
        step += 1
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    return {
        "base_mib": base,
        "peak_mib": peak_mib(),
        "opened_s": opened,
        "steps": step,
        "steps_per_s": step / wall,
        "cpu_ms_a_step": 1000 * cpu / step,
    }


def measure(folder: Path, photos: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Runs each part in a process of its own and returns what they print."""
    decoded = photos <= options.decoded
    common = ["--folder", str(folder), "--photos", str(photos), "--pair-every", str(options.pair_every)]
    common += ["--decoded", str(options.decoded), "--seconds", str(options.seconds)]
    found = {}
    for part in ("set-up", "drive", "draw"):
        command = [sys.executable, "-m", "benchmarks.training_scale", "--part", part, *common]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[part] = json.loads(done.stdout.splitlines()[-1])
    driver, trainer = found["drive"], found["draw"]
    size = sum(file.stat().st_size for file in (folder / "home" / "training" / "squares").rglob("*.npy"))
    print(
        f"{photos} photos ({'decoded' if decoded else 'made up'}), {size / 1e9:.2f} GB of squares, "
        f"{driver['left_out']:.0f} left out, {driver['pairs']:.0f} perturbations"
    )
    print(
        f"  driver: peak {driver['peak_mib']:.0f} MiB (at its start {driver['base_mib']:.0f}, after cutting "
        f"{driver['cut_mib']:.0f}), cut in {driver['cut_s']:.0f} s, selected in {driver['select_s']:.0f} s, "
        f"perturbations gathered in {driver['pairs_s']:.0f} s"
    )
    print(
        f"  trainer: peak {trainer['peak_mib']:.0f} MiB (before it opens them {trainer['base_mib']:.0f}), opened in "
        f"{trainer['opened_s']:.1f} s, {trainer['steps_per_s']:.0f} batches/s of {BATCH} photos and {PAIR_BATCH} "
        f"pairs, {trainer['cpu_ms_a_step']:.1f} CPU-ms each",
        flush=True,
    )
    return found


def main() -> None:
    """Runs the benchmark, or one part of it in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--decoded", type=int, default=100_000, help="largest set whose photos are decoded")
    parser.add_argument("--pair-every", type=int, default=100, help="photos to one with a perturbation")
    parser.add_argument("--seconds", type=float, default=20.0, help="of drawing batches")
    parser.add_argument("--folder", type=Path, help="for the files: 12.3 kB a photo; by default a temporary one")
    parser.add_argument("--part", choices=("set-up", "drive", "draw"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        decoded = options.photos[0] <= options.decoded
        result: dict[str, float] = {}
        if options.part == "set-up":
            set_up(options.folder, options.photos[0], decoded)
        elif options.part == "drive":
            result = drive(options.folder, options.pair_every, decoded)
        else:
            result = draw(options.folder, options.seconds)
        print(json.dumps(result))
        return
    found = {}
    for photos in options.photos:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            free = shutil.disk_usage(folder).free
            if free < 2 * 3 * SIDE**2 * photos:
                raise SystemExit(
                    f"{photos} photos need {3 * SIDE**2 * photos / 1e9:.0f} GB and {free / 1e9:.0f} are free"
                )
            found[photos] = measure(Path(folder), photos, options)
    parts = [
        f"{photos}:driver_mib={one['drive']['peak_mib']:.0f},trainer_mib={one['draw']['peak_mib']:.0f},"
        f"batches_per_s={one['draw']['steps_per_s']:.1f}"
        for photos, one in found.items()
    ]
    print("training_scale", *parts)


if __name__ == "__main__":
    main()

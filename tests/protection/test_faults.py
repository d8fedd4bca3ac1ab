"""Runs that are hit by every fault of the table that every run has to survive, and what is left of them.

Each test asserts the outcome and the accounting: every photo in one row, nothing half visible, and a next run that
finishes with the bytes of a run that nothing hit. Rows of the table and where they are tested:

- driver killed at each crash-point: here; between shards: test_end_to_end.test_kill_9_and_run_again
- Dask worker killed: here; a task that kills every worker: test_dask_cluster
- photo that kills, hangs or needs too much memory: here and test_guarded_protector; one that kills a worker itself:
  test_dask_cluster.test_a_photo_that_kills_workers_is_quarantined_alone; headers that do: here
- S3 with 503, lost answers, 409, truncated and flipped bodies, 403: runs here, single calls in test_storage_faults,
  commits in test_commits
- two writers of one drop: different plans here; one plan in test_end_to_end and test_commits, where a drop's first
  commit, stale snapshots and other drops are too
- disk full, SIGTERM with seconds left, a scheduler that dies: here; a dead one and a lost connection: test_dask_cluster
- Dagster run killed: here; three drops, one of which fails and is mended: test_assets
- input overwritten between plan and read: test_drop_run, test_shard_tasks
- weights swapped or corrupt: here for a run, test_shard_tasks and test_defender_registry for each file
- 1,000,000 rows: benchmarks/million_rows.py
- training killed, also while it writes a checkpoint: test_trainer, test_training_tasks
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fault_proxy import Fault, fault_proxy
from odd_photos import encoded
from PIL import Image
from poisoned_photos import poison
from rid_commands import clean_tree, environment, keys_of, protect, rid, start
from s3_server import KEY, SECRET, S3Server
from small_catalogs import request_for, run, tree, write_parquet, write_photos
from tiny_defender import write_tiny_defender
from worker_functions import kill_on_read

from rid.assets.catalog.index_task import index_photos
from rid.assets.custody.verification import verify_target
from rid.assets.protection.run import run_drop
from rid.models.policy import ProtectionPolicy
from rid.resources.commits import ProtectedTable
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.storage import Storage
from rid.resources.unfinished_files import WRITING

pytestmark = pytest.mark.slow
TWO = WorkerSettings(n_workers=2, use_gpus=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tiny_defender(tmp_path / "defender")
    return tmp_path


def clean_run(place: Path, source: str = "photos", kind: str = "files") -> dict[str, str]:
    """The view of a reader after a run that nothing hits."""
    run(request_for(place / source, place / "clean", place / "defender", drop="d", target_kind=kind))
    return clean_tree(place / "clean")


def write_source(place: Path, kind: str) -> str:
    """70 photos in two shards, as files or as rows."""
    if kind == "files":
        write_photos(place / "photos", 70)
        return "photos"
    write_parquet(place / "rows" / "a.parquet", 35)
    write_parquet(place / "rows" / "b.parquet", 35, first=35)
    return "rows"


def modified(url: str) -> dict[str, int]:
    return {path: (Path(url) / path).stat().st_mtime_ns for path in tree(url)}


def one_sentence(err: str) -> bool:
    return err.startswith("rid: ") and err.count("\n") == 1 and "Traceback" not in err


# ------------------------------------------------------------------------------------------- the driver is killed


@pytest.mark.parametrize("kind", ["files", "table"])
@pytest.mark.parametrize("point", ["after_read", "before_write", "after_write", "before_commit", "after_commit"])
def test_kill_9_at_a_crash_point(point: str, kind: str, place: Path):
    source = write_source(place, kind)
    clean = clean_run(place, source, kind)
    originals = tree(place / source)
    code, _, err = protect(place, source, "out", "--drop", "d", workers=0, RID_CRASH_POINT=point)
    assert (code, err) == (-signal.SIGKILL, "")
    left = clean_tree(place / "out")
    assert left.items() <= clean.items(), "something is visible that is not whole"
    assert len(keys_of(place / "out")) == (70 if point == "after_commit" else 0)

    summary = run(request_for(place / source, place / "out", place / "defender", drop="d", target_kind=kind))
    assert (summary.photos, summary.protected) == (70, 70)
    assert summary.committed == (point != "after_commit")
    if point.endswith("commit"):
        assert summary.photos_computed == 0
    assert clean_tree(place / "out") == clean
    assert len(set(keys_of(place / "out"))) == 70
    assert tree(place / source) == originals
    assert verify_target(str(place / "out")).passed


def test_a_driver_killed_with_its_workers_leaves_none_of_them(place: Path):
    write_photos(place / "photos", 70)
    process = start(
        place, "protect", "photos", "out", "--defender", "defender", "--workers", "2", RID_CRASH_POINT="before_commit"
    )
    family: set[psutil.Process] = set()
    while process.poll() is None:
        with_children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        family.update(with_children)
        time.sleep(0.05)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(family) >= 4, "two workers and their children"
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert protect(place, "photos", "out")[0] == 0


# ------------------------------------------------------------------------------------------- a worker is killed


def test_a_worker_killed_in_the_middle_of_its_task(place: Path):
    class Unlucky(Workers):
        killed = 0

        def run(self, function, tasks, *, prefix, expected, **options):
            for done in super().run(function, tasks, prefix=prefix, expected=expected, **options):
                if prefix == "protect" and not self.killed:
                    self.killed = next(iter(self.client().run(os.getpid).values()))
                    os.kill(self.killed, signal.SIGKILL)
                yield done

    write_photos(place / "photos", 200)
    clean = clean_run(place)
    with Unlucky(TWO) as workers:
        summary = run_drop(request_for(place / "photos", place / "out", place / "defender", drop="d"), workers)
    assert workers.killed
    assert (summary.photos, summary.protected, summary.quarantined) == (200, 200, {})
    assert clean_tree(place / "out") == clean
    assert len(keys_of(place / "out")) == len(set(keys_of(place / "out"))) == 200


def test_workers_that_die_right_after_their_write_have_done_their_work(place: Path):
    """The system tries a shard again, and finds it finished."""
    write_photos(place / "photos", 20)
    clean = clean_run(place)
    code, summary, err = protect(place, "photos", "out", "--drop", "d", RID_CRASH_POINT="after_write")
    assert (code, summary["protected"], summary["photos_computed"]) == (0, 20, 0), err
    assert clean_tree(place / "out") == clean


# ----------------------------------------------------------------------------------- one photo is the fault


def test_photos_that_kill_hang_or_blow_up_are_quarantined_alone(place: Path, monkeypatch: pytest.MonkeyPatch):
    write_photos(place / "photos", 20)
    (place / "photos" / "p004.jpg").unlink()
    clean = clean_run(place)
    write_photos(place / "photos", 1, first=4)
    black = np.zeros((4000, 4000), np.uint8)
    (place / "photos" / "large.png").write_bytes(encoded(Image.fromarray(black + 90).convert("RGB"), "PNG"))
    (place / "photos" / "hang.jpg").write_bytes((place / "photos" / "p002.jpg").read_bytes())
    poison(place, monkeypatch, {"p004.jpg": "kill", "hang.jpg": "hang"})
    policy = ProtectionPolicy(photo_seconds=2, photo_memory=2**25)
    request = request_for(place / "photos", place / "out", place / "defender", drop="d", policy=policy)
    summary = run(request, TWO)
    expected = {"worker_killed": 1, "deadline": 1, "out_of_memory": 1}
    assert (summary.photos, summary.protected, summary.quarantined) == (22, 19, expected)
    assert tree(place / "out", without=("_rid",)) == {k: v for k, v in clean.items() if not k.startswith("_rid")}
    rows = request.target.receipts.read("d", ["key", "reason", "detail", "engine"]).to_pylist()
    held = {row["key"]: row["reason"] for row in rows if row["reason"]}
    assert held == {
        "p004.jpg": "worker_killed",
        "hang.jpg": "deadline",
        "large.png": "out_of_memory",
    }
    again = run(request, TWO)
    assert (again.committed, again.quarantined) == (False, expected)


def test_a_photo_whose_header_kills_workers_is_a_row(place: Path):
    class Deadly(Workers):
        def run(self, function, tasks, *, prefix, expected, **options):
            changed = kill_on_read if function is index_photos else function
            yield from super().run(changed, tasks, prefix=prefix, expected=expected, **options)

    write_photos(place / "photos", 20)
    (place / "photos" / "deadly.jpg").write_bytes(b"\xff\xd8\xffdeadly")
    with Deadly(TWO) as workers:
        summary = run_drop(request_for(place / "photos", place / "out", place / "defender"), workers)
    assert (summary.photos, summary.protected, summary.quarantined) == (21, 20, {"worker_killed": 1})


# ----------------------------------------------------------------------------------------------- the store


def test_a_run_through_a_store_with_faults(place: Path, s3: S3Server, s3_url: str):
    write_photos(place / "photos", 40)
    write_photos(f"{s3_url}/photos", 40)
    clean = clean_run(place)
    faults = [
        Fault("PUT", "503", 2),
        Fault("PUT", "lost", 2, "out/p0"),
        Fault("PUT", "409", 2, "out/odd"),
        Fault("PUT", "lost", 1, "_delta_log"),
        Fault("GET", "503", 2, "photos"),
        Fault("GET", "truncated", 2, "photos/p0"),
        Fault("GET", "flipped", 2, "photos/odd"),
        Fault("HEAD", "503", 2),
    ]
    with fault_proxy(s3.endpoint) as proxy:
        proxy.faults = faults
        code, summary, err = protect(
            place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d", AWS_ENDPOINT_URL=proxy.endpoint
        )
    assert (code, err) == (0, "")
    assert [fault.times for fault in faults] == [0] * len(faults)
    assert (summary["photos"], summary["protected"]) == (40, 40)
    published = {name: sha for name, sha in clean.items() if not name.startswith("_rid")}
    assert tree(f"{s3_url}/out", without=("_rid",)) == published
    assert len(keys_of(f"{s3_url}/out")) == len(set(keys_of(f"{s3_url}/out"))) == 40
    assert rid(place, "verify", f"{s3_url}/out")[0] == 0


def test_runs_need_no_permission_to_delete(place: Path, s3: S3Server, s3_url: str):
    write_photos(f"{s3_url}/photos", 3)
    out = f"{s3_url}/out"
    with fault_proxy(s3.endpoint) as proxy:
        proxy.faults = [Fault("DELETE", "denied", 99)]
        through = {"AWS_ENDPOINT_URL": proxy.endpoint}
        assert protect(place, f"{s3_url}/photos", out, "--drop", "d", **through)[0] == 0
        assert proxy.faults[0].times == 99
        Storage(f"{s3_url}/photos").delete("p002.jpg")
        code, summary, err = protect(place, f"{s3_url}/photos", out, "--drop", "d", **through)
        assert (code, summary["photos"]) == (0, 2)
        assert "1 published photos whose originals are gone may not be deleted here" in err
        assert rid(place, "forget", out, "p000.jpg", **through)[0] == 1
    assert rid(place, "verify", out)[0] == 6
    assert rid(place, "forget", out, "p000.jpg", "p002.jpg")[0] == 6
    assert rid(place, "verify", out)[0] == 0
    assert rid(place, "vacuum", out, "--keep-days", "0")[0] == 0
    assert rid(place, "forget", out, "p000.jpg", "p002.jpg")[0] == 0


def test_credentials_that_expire_in_the_middle_stop_the_run(place: Path, s3: S3Server, s3_url: str):
    write_photos(f"{s3_url}/photos", 40)
    with fault_proxy(s3.endpoint) as proxy:
        proxy.faults = [Fault("PUT", "403", 999, "out/p03")]
        code, out, err = protect(
            place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d", AWS_ENDPOINT_URL=proxy.endpoint
        )
    assert (code, out) == (1, {})
    assert one_sentence(err) and "refused the credentials" in err, err
    assert KEY not in err and SECRET not in err
    assert keys_of(f"{s3_url}/out") == []
    code, summary, _ = protect(place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d")
    assert (code, summary["protected"]) == (0, 40)
    assert rid(place, "verify", f"{s3_url}/out")[0] == 0


@pytest.mark.parametrize("limit", [1_000, 20_000])  # bytes of a file: the catalog does not fit, or a shard's file
def test_a_full_disk_stops_the_run_which_goes_on_later(limit: int, place: Path):
    write_photos(place / "photos", 70)
    clean = clean_run(place)
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    prefix = (sys.executable, "-c", code, str(limit))
    status, _, err = protect(place, "photos", "out", "--drop", "d", workers=0, prefix=prefix)
    assert status == 1 and one_sentence(err) and "File too large" in err, err
    assert clean_tree(place / "out").items() <= clean.items()
    assert not [path for path in tree(place / "out") if path.endswith(WRITING)]
    assert keys_of(place / "out") == []
    status, summary, _ = protect(place, "photos", "out", "--drop", "d", workers=0)
    assert (status, summary["protected"]) == (0, 70)
    assert clean_tree(place / "out") == clean


# ------------------------------------------------------------------------------------------------ two writers


@pytest.mark.parametrize("kind", ["folder", "table on S3"])
def test_two_plans_of_one_drop_at_once_never_mix(kind: str, place: Path, s3_url: str):
    """On disk the second run waits for the first. On S3 the log decides, and the loser is told."""
    write_tiny_defender(place / "other", seed=5)
    if kind == "folder":
        write_photos(place / "photos", 130)
        source, target = "photos", str(place / "out")
    else:
        write_parquet(place / "rows.parquet", 130, row_group=40)
        source, target = "rows.parquet", f"{s3_url}/table"
    options = ("--workers", "1", "--drop", "d")
    runs = [start(place, "protect", source, target, "--defender", name, *options) for name in ("defender", "other")]
    said = [process.communicate(timeout=120)[1] for process in runs]
    codes = [process.returncode for process in runs]
    if kind == "folder":
        assert codes == [0, 0]
        assert sum("waiting for its end" in err for err in said) == 1
    else:
        assert sorted(codes) in ([0, 0], [0, 1])
        assert all(
            code == 0 or (one_sentence(err) and "run again" in err) for code, err in zip(codes, said, strict=True)
        )
    table = ProtectedTable(Storage(f"{target}/_rid" if kind == "folder" else target))
    rows = table.read("d", ["key", "defender_digest"]).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) == 130
    assert len({row["defender_digest"] for row in rows}) == 1
    assert rid(place, "verify", target)[0] == 0


# ---------------------------------------------------------------------------------------- signals, schedulers


def test_a_terminated_run_ends_within_five_seconds_whatever_hangs(place: Path, monkeypatch: pytest.MonkeyPatch):
    write_photos(place / "photos", 20)
    clean = clean_run(place)
    with monkeypatch.context() as patch:
        poison(place, patch, {"p012.jpg": "hang"})
        process = start(place, "protect", "photos", "out", "--defender", "defender", "--workers", "1", "--drop", "d")
    while not (place / "out" / "p006.jpg").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    family = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 143 and "run the same command again" in err
    assert not psutil.wait_procs(family, timeout=15)[1], "the photo that hangs outlives the run"
    code, summary, _ = protect(place, "photos", "out", "--drop", "d")
    assert (code, summary["protected"]) == (0, 20)
    assert clean_tree(place / "out") == clean


def test_a_scheduler_that_dies_in_the_middle_stops_the_run(place: Path):
    write_photos(place / "photos", 400)
    code = (
        "import time; from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host='127.0.0.1', dashboard_address=None)\n"
        "    print(cluster.scheduler_address, flush=True); time.sleep(600)\n"
    )
    (place / "cluster.py").write_text(code)
    cluster = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    options = ("--defender", "defender", "--scheduler", address, "--drop", "d")
    process = start(place, "protect", "photos", "out", *options)
    try:
        while not (place / "out" / "_rid" / "drop=d").is_dir():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)
        cluster.communicate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and one_sentence(err) and "run again to continue" in err, err
    assert keys_of(place / "out") == []
    code, summary, _ = protect(place, "photos", "out", "--drop", "d")
    assert (code, summary["protected"]) == (0, 400)
    assert summary["shards_written"] < summary["shards"]


# ------------------------------------------------------------------------------------------------------ weights


def test_swapped_weights_stop_a_run_before_it_writes(place: Path):
    write_photos(place / "photos", 20)
    write_tiny_defender(place / "other", seed=5)
    shutil.copy(place / "other" / "model.onnx", place / "defender" / "model.onnx")
    code, _, err = protect(place, "photos", "out")
    assert code == 5 and one_sentence(err) and "is not the file that was registered" in err, err
    assert not tree(place / "out", without=("_rid",)) and keys_of(place / "out") == []


# ------------------------------------------------------------------------------------------------------ Dagster


DAGSTER_RUN = """
import sys
from dagster import DagsterInstance, materialize
from rid.assets.drop_chain import drop_chain
from rid.assets.partitions import DROPS
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places
from rid.resources.storage import Storage

home, source, weights = sys.argv[1:]
with DagsterInstance.get() as instance:
    instance.add_dynamic_partitions(DROPS, ["monday"])
    done = materialize(
        [drop_chain],
        selection=["photo_catalog", "protected_catalog"],
        partition_key="monday",
        resources={"places": Places(home=home, source=source, weights=weights), "dask": DaskCluster(n_workers=0)},
        instance=instance,
    )
"""


def test_a_killed_dagster_run_is_resumed(place: Path):
    write_photos(place / "source" / "monday", 20)
    write_tiny_defender(place / "weights" / "default")
    (place / "dagster").mkdir()
    command = [sys.executable, "-c", DAGSTER_RUN, *(str(place / name) for name in ("home", "source", "weights"))]

    def dagster_run(**more: str) -> int:
        home = environment(place, DAGSTER_HOME=str(place / "dagster"), **more)
        done = subprocess.run(command, env=home, capture_output=True, timeout=180, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr[-5000:]
        return done.returncode

    table = ProtectedTable(Storage(str(place / "home" / "protected")))
    assert dagster_run(RID_CRASH_POINT="before_commit") == -signal.SIGKILL
    assert table.drops() == []
    shards = modified(f"{table.url}/drop=monday")
    assert len(shards) == 1
    assert dagster_run() == 0
    assert modified(f"{table.url}/drop=monday") == shards, "the photos were protected already"
    assert len(set(keys_of(table.url, "monday"))) == 20
    assert verify_target(table.url).passed

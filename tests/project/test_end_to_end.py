"""`rid` as a user runs it: real processes, embedded Dask workers, disk and S3."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rid_commands import clean_tree, protect, rid, start, wait_for_shards
from small_catalogs import photo_bytes, tree, write_parquet, write_photos
from tiny_defender import write_tiny_defender

from rid.resources.commits import ProtectedTable
from rid.resources.storage import Storage

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tiny_defender(tmp_path / "defender")
    return tmp_path


def test_a_folder_with_faults(place: Path):
    write_photos(place / "photos", 20)
    write_photos(place / "photos", 5, first=30, kind="PNG")
    (place / "photos" / "cut.jpg").write_bytes(photo_bytes(1, side=400)[:3000])
    (place / "photos" / "text.jpg").write_text("no picture")
    before = tree(place / "photos")
    code, summary, err = protect(place, "photos", "out")
    assert (code, err) == (3, "")
    assert (summary["photos"], summary["protected"]) == (27, 25)
    assert summary["quarantined"] == {"truncated": 1, "unsupported_format": 1}
    assert tree(place / "photos") == before

    code, again, _ = protect(place, "photos", "out")
    assert (code, again["committed"], again["shards_written"]) == (3, False, 0)
    code, out, _ = rid(place, "verify", "out")
    assert code == 0 and "25 published photos re-hashed, 0 findings" in out
    data = bytearray((place / "out" / "p002.jpg").read_bytes())
    data[len(data) // 2] ^= 1
    (place / "out" / "p002.jpg").write_bytes(data)
    code, out, _ = rid(place, "verify", "out")
    assert code == 6 and "changed: p002.jpg" in out


@pytest.mark.parametrize("shards", [1, 3])
def test_kill_9_and_run_again(place: Path, shards: int):
    write_photos(place / "photos", 400)
    assert protect(place, "photos", "clean", "--drop", "d")[0] == 0
    process = start(place, "protect", "photos", "out", "--defender", "defender", "--workers", "2", "--drop", "d")
    wait_for_shards(str(place / "out"), shards)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not ProtectedTable(Storage(str(place / "out" / "_rid"))).live_files("d"), "the run was too fast to be killed"
    code, summary, _ = protect(place, "photos", "out", "--drop", "d")
    assert code == 0 and summary["protected"] == 400
    assert summary["shards_written"] <= summary["shards"] - shards
    assert clean_tree(place / "out") == clean_tree(place / "clean")
    assert rid(place, "verify", "out")[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_cleanly(place: Path, number: signal.Signals, code: int):
    write_photos(place / "photos", 1500)
    process = start(place, "protect", "photos", "out", "--defender", "defender", "--workers", "2")
    wait_for_shards(str(place / "out"), 1)
    os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "run the same command again to continue" in err and "Traceback" not in err
    assert protect(place, "photos", "out")[0] == 0
    assert rid(place, "verify", "out")[0] == 0


def test_parquet_in_parquet_out(place: Path):
    before = write_parquet(place / "in" / "a.parquet", 100, row_group=30)
    code, summary, _ = protect(place, "in", "table")
    assert (code, summary["protected"]) == (0, 100)
    drop = summary["drop"]
    after = (
        ProtectedTable(Storage(str(place / "table"))).read(drop, ["key", "image", "caption", "label"]).sort_by("key")
    )
    assert after.select(["caption", "label"]).to_pydict() == before.select(["caption", "label"]).to_pydict()
    assert all(image["bytes"][:2] == b"\xff\xd8" for image in after.column("image").to_pylist())
    assert rid(place, "verify", "table")[0] == 0


def test_on_s3_as_on_disk(place: Path, s3_url: str):
    write_photos(f"{s3_url}/photos", 70)
    write_photos(place / "photos", 70)
    code, _summary, err = protect(place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d")
    assert (code, err) == (0, "")
    assert protect(place, "photos", "out", "--drop", "d")[0] == 0
    assert tree(f"{s3_url}/out", without=("_rid",)) == tree(place / "out", without=("_rid",))
    code, again, _ = protect(place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d")
    assert (code, again["committed"]) == (0, False)
    write_photos(f"{s3_url}/photos", 1, first=90)
    code, more, _ = protect(place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d")
    assert (code, more["shards_written"], more["photos_computed"]) == (0, 1, 1)
    Storage(f"{s3_url}/out").delete("p000.jpg")
    code, out, _ = rid(place, "verify", f"{s3_url}/out")
    assert code == 6 and "missing: p000.jpg" in out
    assert protect(place, f"{s3_url}/photos", f"{s3_url}/out", "--drop", "d")[1]["photos_computed"] == 1
    assert rid(place, "verify", f"{s3_url}/out")[0] == 0


def test_parquet_on_s3(place: Path, s3_url: str):
    write_parquet(place / "a.parquet", 10)
    Storage(f"{s3_url}/in").write_bytes("a.parquet", (place / "a.parquet").read_bytes())
    code, summary, err = protect(place, f"{s3_url}/in/a.parquet", f"{s3_url}/table", "--drop", "d")
    assert (code, summary["protected"], err) == (0, 10, "")
    rows = ProtectedTable(Storage(f"{s3_url}/table")).read("d", ["caption", "status"])
    assert sorted(rows.column("caption").to_pylist()) == sorted(
        pq.read_table(place / "a.parquet").column("caption").to_pylist()
    )
    assert rid(place, "verify", f"{s3_url}/table")[0] == 0


def test_two_runs_of_one_drop_at_once(place: Path):
    write_photos(place / "photos", 150)
    arguments = ("protect", "photos", "out", "--defender", "defender", "--workers", "1", "--drop", "d")
    runs = [start(place, *arguments) for _ in range(2)]
    for process in runs:
        process.communicate(timeout=120)
    assert [process.returncode for process in runs] == [0, 0]
    keys = ProtectedTable(Storage(str(place / "out" / "_rid"))).read("d", ["key"]).column(0).to_pylist()
    assert len(keys) == len(set(keys)) == 150
    assert rid(place, "verify", "out")[0] == 0

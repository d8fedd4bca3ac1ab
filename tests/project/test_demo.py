"""`make demo`, trained for a few steps only: the whole chain in real processes, and a second time nothing new."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rid.dagster_project.demo.catalog import GUISES, encode, write_demo_photos

ROOT = Path(__file__).parents[2]


def test_the_catalog_has_the_guises_it_names(tmp_path: Path) -> None:
    assert write_demo_photos(tmp_path) == len(GUISES) + 4
    assert write_demo_photos(tmp_path) == 0
    turned = set()
    for guise in GUISES:
        with Image.open(tmp_path / guise.name) as photo:
            orientation = photo.getexif().get(0x0112)
            size = photo.size if orientation < 5 else photo.size[::-1]
            assert (photo.format, size, photo.mode) == (guise.kind, guise.size, guise.mode), guise.name
            assert orientation == guise.orientation
            assert bool(photo.info.get("icc_profile")) == guise.profile
            turned.add(orientation)
            assert min(photo.size) >= 480
            assert max(photo.size) <= 3000
    assert turned == set(range(1, 9))


def test_a_turned_photo_shows_the_same_picture() -> None:
    from PIL import ImageOps

    by_orientation = {g.orientation: g for g in GUISES if "turned" in g.name}
    pictures = [ImageOps.exif_transpose(Image.open(io.BytesIO(encode(guise)))) for guise in by_orientation.values()]
    for picture in pictures[1:]:
        assert picture.size == pictures[0].size
        difference = [abs(a - b) for a, b in zip(picture.tobytes()[::997], pictures[0].tobytes()[::997], strict=True)]
        assert sum(difference) / len(difference) < 3


def run_demo(folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rid.dagster_project.demo", str(folder), "--quick"]
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file but Dagster's own record of its runs."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "dagster"
    }


@pytest.mark.slow
def test_the_demo_runs_the_chain_and_then_writes_nothing_new(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    said = run_demo(folder)
    assert "24 protected, 0 skipped, 3 quarantined" in said
    assert "1 truncated" in said
    assert "2 unsupported_format" in said
    for place in ("protected/portraits/astronaut.jpg", "strip.jpg", "home/reports/studio/index.html"):
        assert (folder / place).is_file()
        assert str(folder / Path(place).parts[0]) in said
    figures = json.loads((folder / "home/reports/studio/report.json").read_bytes())
    assert [effect["model"] for effect in figures["protection"]] == ["embedded-64", "embedded-64-v"]
    before = files(folder)
    assert "24 protected, 0 skipped, 3 quarantined" in run_demo(folder)
    assert files(folder) == before

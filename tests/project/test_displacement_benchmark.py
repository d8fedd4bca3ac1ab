import json
import re
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from quick_pipelines import photo_crops
from small_spaces import save_spaces
from tiny_defender import write_tiny_defender

from benchmarks.displacement import main
from rid.assets.studies.measured_photos import read_measured_photos


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Five photos of three people."""
    data = [cv2.imencode(".jpg", photo)[1].tobytes() for photo in photo_crops(5, side=80)]
    rows = [{"image": {"bytes": one, "path": f"{number}.jpg"}} for number, one in enumerate(data)]
    table = pa.Table.from_pylist(rows).append_column("identity", pa.array(["id2", "id1", "id1", "id0", "id1"]))
    pq.write_table(table, tmp_path / "people.parquet")
    return tmp_path / "people.parquet"


def test_photos_are_spread_over_the_people_that_are_asked_for(people: Path) -> None:
    found = read_measured_photos([str(people)], 4)
    assert found.people == ["id0", "id1", "id2", "id1"]
    assert found.files[0] == pq.read_table(people).column("image")[3].as_py()["bytes"]
    assert read_measured_photos([str(people)], 9, "id1:id1").people == ["id1"] * 3


def test_folders_are_people_too(people: Path, tmp_path: Path) -> None:
    files = read_measured_photos([str(people)], 5).files
    for number, name in enumerate(["anna/1.jpg", "anna/2.JPG", "ben/1.jpeg", "alone.jpg"]):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(files[number])
    (tmp_path / "faces" / "notes.txt").write_text("no photo")
    found = read_measured_photos([str(tmp_path / "faces")], 9)
    assert found.people == ["alone.jpg", "anna", "ben", "anna"]
    assert found.files == [files[3], files[0], files[2], files[1]]
    with pytest.raises(ValueError, match="no photo is found"):
        read_measured_photos([str(tmp_path / "nothing")], 9)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="has no column 'image': it has text"):
        read_measured_photos([str(tmp_path / "none.parquet")], 9)


def test_the_table_is_made_once_and_goes_on_where_it_was_stopped(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_defender(tmp_path / "defender")
    arguments = ["--photos", str(people), "--count", "5", "--sizes", "64", "--budgets", "8", "6", "--batch", "3"]
    arguments += ["--defenders", f"tiny={tmp_path / 'defender'}", "--pgd", "2", "--pgd-photos", "3"]
    arguments += ["--spaces", *map(str, save_spaces(tmp_path)), "--out", str(tmp_path / "out")]
    main(arguments)
    printed = capsys.readouterr().out
    assert re.search(r"^### 64 px, \+-8, 5 photos of 3 people$", printed, re.MULTILINE)
    assert len(re.findall(r"^\| (?:tiny \(5\)|PGD-2 \(3\)) \|", printed, re.MULTILINE)) == 4
    result = tmp_path / "out" / "displacement.json"
    first = json.loads(result.read_text())
    assert [(one["contender"], one["budget"]) for one in first["records"]] == [
        ("tiny", 8),
        ("PGD-2", 8),
        ("tiny", 6),
        ("PGD-2", 6),
    ]
    assert first["records"][0]["cosine"]["mean"] > 0.3  # its pattern is a stencil
    assert first["records"][0]["table"]["over_noise_mean"]["count"] == 5
    assert "--count 5" in first["command"]
    parts = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "parts").iterdir()}
    lost = sorted(parts)[: len(parts) // 2]
    for file in lost:
        file.unlink()
    main(arguments)
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "parts").iterdir()}
    assert set(again) == set(parts)
    assert all(again[file] == parts[file] for file in parts if file not in lost)
    assert json.loads(result.read_text()) == first

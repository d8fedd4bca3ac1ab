import shutil
from pathlib import Path

import pytest
from small_catalogs import photo_bytes, request_for, run, write_parquet, write_photos

from rid.assets.custody.verification import verify_target
from rid.assets.protection.targets import NotATarget
from rid.resources.commits import ProtectedTable
from rid.resources.storage import Storage
from rid.resources.unfinished_files import WRITING


@pytest.fixture
def target(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 3)
    write_photos(tmp_path / "photos", 3, first=10, kind="PNG")
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    run(request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender"))
    return tmp_path / "out"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "in" / "a.parquet", 5)
    run(request_for(tmp_path / "in", tmp_path / "table", tmp_path / "defender", target_kind="table"))
    return tmp_path / "table"


def found(target: Path, source: Path | None = None) -> set[tuple[str, str]]:
    result = verify_target(str(target), str(source) if source else None)
    return {(finding.kind, finding.name) for finding in result.findings}


def flip_byte(file: Path, position: int = -10) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(bytes(data))


def test_an_untouched_target_passes(target: Path):
    result = verify_target(str(target))
    assert result.passed
    assert (result.photos, result.published, result.budgets_checked, result.budgets_unchecked) == (7, 6, 3, 0)
    ((drop, defender, policy),) = result.by_defender
    assert drop == "d1" and len(defender) == len(policy) == 64
    assert result.to_json()["protected_by"][0]["photos"] == 6


def test_a_flipped_byte_is_named(target: Path):
    flip_byte(target / "p002.jpg")
    assert found(target) == {("changed", "p002.jpg")}


def test_a_missing_an_extra_and_a_half_written_file_are_named(target: Path):
    (target / "p002.jpg").unlink()
    (target / "stranger.jpg").write_bytes(b"x")
    (target / "odd" / f".abc{WRITING}").write_bytes(b"x")
    half = f"odd/.abc{WRITING}"
    assert {("missing", "p002.jpg"), ("extra", "stranger.jpg"), ("half_written", half)} == found(target)


def test_a_lost_shard_file_is_named(target: Path):
    (path,) = ProtectedTable(Storage(f"{target}/_rid")).live_files("d1")
    (target / "_rid" / path).unlink()
    kinds = {kind for kind, _ in found(target)}
    assert kinds == {"missing", "rows", "extra"}
    assert ("missing", path) in found(target)


def test_an_original_that_was_published_as_protected_is_found(target: Path, tmp_path: Path):
    """A receipt that was forged along with its photo still breaks the budget: nothing was changed."""
    import hashlib

    import pyarrow.parquet as pq

    original = (tmp_path / "photos" / "p010.png").read_bytes()
    (target / "p010.png").write_bytes(original)
    (path,) = ProtectedTable(Storage(f"{target}/_rid")).live_files("d1")
    rows = pq.read_table(target / "_rid" / path, partitioning=None)
    listed = rows.to_pylist()
    for row in listed:
        if row["key"] == "p010.png":
            row["output_sha256"] = hashlib.sha256(original).hexdigest()
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(listed, schema=rows.schema), target / "_rid" / path)
    assert found(target) == {("budget", "p010.png")}


def test_budgets_need_the_originals_and_say_so(target: Path, tmp_path: Path):
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    gone = verify_target(str(target))
    assert (gone.passed, gone.budgets_checked, gone.budgets_unchecked) == (True, 0, 3)
    back = verify_target(str(target), str(tmp_path / "moved"))
    assert (back.budgets_checked, back.budgets_unchecked) == (3, 0)
    (tmp_path / "moved" / "p010.png").write_bytes(photo_bytes(55, "PNG"))
    changed = verify_target(str(target), str(tmp_path / "moved"))
    assert (changed.budgets_checked, changed.budgets_unchecked) == (2, 1)


def test_a_lost_catalog_is_named(target: Path):
    shutil.rmtree(target / "_rid" / "_state")
    assert found(target) == {("missing", "catalog")}


def test_a_table_passes_and_a_flipped_byte_in_it_is_found(table: Path):
    result = verify_target(str(table))
    assert (result.passed, result.photos, result.published) == (True, 5, 5)
    (path,) = ProtectedTable(Storage(str(table))).live_files("d1")
    data = (table / path).read_bytes()
    flip_byte(table / path, data.index(b"\xff\xd8\xff") + 400)
    assert ("changed", path) in found(table)


def test_a_table_whose_catalog_lies_beside_it(tmp_path: Path):
    write_photos(tmp_path / "photos", 2)
    home = tmp_path / "home"
    run(request_for(tmp_path / "photos", home / "protected", tmp_path / "defender", target_kind="table"))
    (home / "protected" / "_rid" / "_state" / "catalog").rename(home / "catalog")  # as earlier versions left it
    assert verify_target(str(home / "protected")).passed


def test_what_was_not_published_here_is_refused(tmp_path: Path):
    write_photos(tmp_path / "photos", 1)
    for url in (tmp_path / "photos", tmp_path / "nothing"):
        with pytest.raises(NotATarget, match="nothing was published"):
            verify_target(str(url))


def test_on_s3(s3_url: str, tmp_path: Path):
    write_photos(f"{s3_url}/photos", 2)
    run(request_for(f"{s3_url}/photos", f"{s3_url}/out", tmp_path / "defender"))
    assert verify_target(f"{s3_url}/out").passed
    Storage(f"{s3_url}/out").write_bytes("p000.jpg", b"changed")
    (finding,) = verify_target(f"{s3_url}/out").findings
    assert (finding.kind, finding.name) == ("changed", "p000.jpg")

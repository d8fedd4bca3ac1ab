"""XMP files beside photos go along with them, without pictures of the unprotected original."""

import base64
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_catalogs import HERE, photo_bytes, request_for, run, tree, write_parquet, write_photos

from rid.assets.catalog.sidecars import MAX_BYTES, match_sidecars
from rid.assets.custody.verification import verify_target
from rid.assets.protection.run import run_drop
from rid.resources.dask_workers import Workers
from rid.resources.storage import FileEntry, Storage

PLAIN = "<x:xmpmeta xmlns:x='adobe:ns:meta/'>Zoë's words</x:xmpmeta>".encode()
PICTURE = base64.b64encode(photo_bytes(9))
THUMBNAIL = b"<x><xmpGImg:image>" + PICTURE + b"</xmpGImg:image>kept</x>"


def receipts(request) -> dict[str, dict]:
    table = request.target.receipts
    columns = ("key", "status", "flags", "sidecars")
    return {row["key"]: row for row in table.read(request.drop, columns).to_pylist()}


def outputs(request) -> dict[str, str]:
    return tree(request.target.url, without=("_rid",))


@pytest.fixture
def request_(tmp_path: Path):
    write_photos(tmp_path / "photos", 4)
    for name, data in (
        ("p000.xmp", PLAIN),
        ("p002.jpg.XMP", THUMBNAIL),
        ("p002.xmp", PLAIN + b"2"),
        ("odd/p001.xmp", PLAIN + b"1"),
        ("orphan.xmp", PLAIN),
        ("notes.txt", b"ignored"),
    ):
        Storage(str(tmp_path / "photos")).write_bytes(name, data)
    return request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")


def entry(path: str) -> FileEntry:
    return FileEntry(path, 1, "1-1")


def test_sidecars_belong_to_photos_of_their_name():
    photos = [entry(name) for name in ("a.jpg", "a.png", "b/a.jpg", "c.d.jpg", "e.jpg")]
    files = [entry(name) for name in ("a.xmp", "a.jpg.xmp", "b/a.XMP", "c.xmp", "c.d.xmp", "E.xmp", "\udcff.xmp")]
    found = {photo: [one.path for one in beside] for photo, beside in match_sidecars(photos, files).items()}
    assert found == {
        "a.jpg": ["a.jpg.xmp", "a.xmp"],
        "a.png": ["a.xmp"],
        "b/a.jpg": ["b/a.XMP"],
        "c.d.jpg": ["c.d.xmp"],
    }


def test_they_travel_are_counted_and_verified(request_, tmp_path: Path):
    before = tree(tmp_path / "photos")
    summary = run(request_)
    assert (summary.photos, summary.protected, summary.sidecars, summary.ignored) == (4, 4, 4, 2)
    assert tree(tmp_path / "photos") == before
    out = tmp_path / "out"
    assert (out / "p000.xmp").read_bytes() == PLAIN
    assert (out / "p002.jpg.XMP").read_bytes() == THUMBNAIL.replace(PICTURE, b"")
    assert (out / "p002.xmp").read_bytes() == PLAIN + b"2"
    assert (out / "odd" / "p001.xmp").read_bytes() == PLAIN + b"1"
    assert len(outputs(request_)) == 8 and not (out / "orphan.xmp").exists()
    rows = receipts(request_)
    assert "renditions_removed" in rows["p002.jpg"]["flags"] and rows["p000.jpg"]["flags"] == []
    assert [one["path"] for one in rows["p002.jpg"]["sidecars"]] == ["p002.jpg.XMP", "p002.xmp"]
    assert rows["odd/p003.jpg"]["sidecars"] is None
    result = verify_target(str(out))
    assert result.passed and (result.published, result.sidecars) == (4, 4)
    again = run(request_)
    assert (again.committed, again.shards_written, again.sidecars) == (False, 0, 4)


def test_verify_names_what_is_not_as_it_was(request_, tmp_path: Path):
    run(request_)
    (tmp_path / "out" / "p000.xmp").write_bytes(PLAIN[:-1] + b" ")
    (tmp_path / "out" / "p002.xmp").unlink()
    (tmp_path / "out" / "other.xmp").write_bytes(PLAIN)
    found = {(one.kind, one.name) for one in verify_target(str(tmp_path / "out")).findings}
    assert found == {("changed", "p000.xmp"), ("missing", "p002.xmp"), ("extra", "other.xmp")}


def test_a_lost_sidecar_comes_back(request_, tmp_path: Path):
    run(request_)
    before = outputs(request_)
    (tmp_path / "out" / "p002.xmp").unlink()
    (tmp_path / "out" / "p000.xmp").write_bytes(b"short")
    assert run(request_).committed is False
    assert outputs(request_) == before


def test_a_changed_sidecar_is_written_anew_and_its_photo_is_not_protected_again(request_, tmp_path: Path):
    run(request_)
    before = outputs(request_)
    (tmp_path / "photos" / "p000.xmp").write_bytes(b"<x>new words</x>")
    (tmp_path / "photos" / "p003.xmp").write_bytes(PLAIN)  # beside no photo
    (tmp_path / "photos" / "odd" / "p003.xmp").write_bytes(PLAIN)
    summary = run(request_)
    assert (summary.sidecars, summary.photos_computed, summary.committed) == (5, 0, True)
    after = outputs(request_)
    assert (tmp_path / "out" / "p000.xmp").read_bytes() == b"<x>new words</x>"
    assert {name for name in after if after[name] != before.get(name)} == {"p000.xmp", "odd/p003.xmp"}
    assert verify_target(str(tmp_path / "out")).passed


def test_a_sidecar_leaves_with_its_photo_and_stays_with_another(request_, tmp_path: Path):
    (tmp_path / "photos" / "p000.png").write_bytes(photo_bytes(5, "PNG"))
    assert run(request_).sidecars == 5  # one beside two photos
    (tmp_path / "photos" / "p000.jpg").unlink()
    (tmp_path / "photos" / "p002.jpg").write_text("no picture")
    summary = run(request_)
    assert (summary.quarantined, summary.sidecars) == ({"unsupported_format": 1}, 2)
    names = set(outputs(request_))
    assert names == {"p000.png", "p000.xmp", "odd/p001.jpg", "odd/p001.xmp", "odd/p003.jpg"}
    assert verify_target(str(tmp_path / "out")).passed


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p000.xmp", b"<x>" + photo_bytes(3) + b"</x>"),
        ("p000.xmp", "<x>no mark of its order</x>".encode("utf-16-le")),
        ("p000.xmp", b"<x>" + b" " * MAX_BYTES + b"</x>"),
        ("p000.xmp", b""),
    ],
)
def test_what_cannot_go_along_is_flagged(tmp_path: Path, name: str, data: bytes):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / name).write_bytes(data)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    summary = run(request)
    assert (summary.protected, summary.sidecars) == (1, 0)
    assert "sidecar_left_out" in receipts(request)["p000.jpg"]["flags"]
    assert set(outputs(request)) == {"p000.jpg"}
    (tmp_path / "photos" / name).write_bytes(PLAIN)
    assert run(request).sidecars == 1
    assert receipts(request)["p000.jpg"]["flags"] == []


def test_a_link_out_of_the_source_is_not_read(request_, tmp_path: Path):
    (tmp_path / "secret.txt").write_text("<x>secret</x>")
    (tmp_path / "photos" / "p000.xmp").unlink()
    (tmp_path / "photos" / "p000.xmp").symlink_to(tmp_path / "secret.txt")
    run(request_)
    assert not (tmp_path / "out" / "p000.xmp").exists()
    assert receipts(request_)["p000.jpg"]["flags"] == ["sidecar_left_out"]


def test_a_name_that_is_not_utf8_is_ignored(request_, tmp_path: Path):
    shutil.copy(tmp_path / "photos" / "p000.xmp", os.fsencode(tmp_path / "photos") + b"/\xff.xmp")
    assert run(request_).ignored == 3


def test_a_drop_does_not_write_over_the_sidecars_of_another(request_, tmp_path: Path):
    run(request_)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "P000.png").write_bytes(photo_bytes(6, "PNG"))
    (tmp_path / "more" / "P000.xmp").write_bytes(b"<x>others</x>")
    other = request_for(tmp_path / "more", tmp_path / "out", tmp_path / "defender", drop="d2")
    summary = run(other)
    assert (summary.protected, summary.sidecars) == (1, 0)
    assert receipts(other)["P000.png"]["flags"] == ["sidecar_left_out"]
    assert (tmp_path / "out" / "p000.xmp").read_bytes() == PLAIN
    assert run(other).committed is False
    (tmp_path / "photos" / "p000.xmp").unlink()
    run(request_)
    assert run(other).sidecars == 1  # the name is free now


def test_a_sidecar_that_is_overwritten_during_the_run_is_planned_again(request_, tmp_path: Path):
    class Overwriting(Workers):
        done = False

        def run(self, function, tasks, *, prefix, expected, **options):
            if prefix == "protect" and not Overwriting.done:
                Overwriting.done = True
                (tmp_path / "photos" / "p000.xmp").write_bytes(b"<x>late</x>")
                (tmp_path / "photos" / "p002.xmp").unlink()
            yield from super().run(function, tasks, prefix=prefix, expected=expected, **options)

    with Overwriting(HERE) as workers:
        summary = run_drop(request_, workers)
    assert (summary.protected, summary.sidecars) == (4, 3)
    assert (tmp_path / "out" / "p000.xmp").read_bytes() == b"<x>late</x>"


def test_skipped_photos_take_theirs_along_too(request_, tmp_path: Path):
    run(request_)
    shutil.copytree(tmp_path / "out", tmp_path / "again" / "back", ignore=shutil.ignore_patterns("_rid"))
    request = request_for(
        tmp_path / "again", tmp_path / "new", tmp_path / "defender", known=(request_.target.receipts,)
    )
    summary = run(request)
    assert (summary.protected, summary.skipped, summary.sidecars) == (0, 4, 4)
    assert outputs(request) == tree(tmp_path / "again")


def test_a_table_takes_photos_alone(request_, tmp_path: Path):
    request = request_for(tmp_path / "photos", tmp_path / "table", tmp_path / "defender", target_kind="table")
    summary = run(request)
    assert (summary.protected, summary.sidecars, summary.ignored) == (4, 0, 6)
    write_parquet(tmp_path / "in" / "a.parquet", 2)
    (tmp_path / "in" / "a.xmp").write_bytes(PLAIN)
    summary = run(replace(request, source=Storage(str(tmp_path / "in")), drop="d2"))
    assert (summary.protected, summary.ignored) == (2, 1)
    assert verify_target(str(tmp_path / "table")).passed


def test_on_s3(s3_url: str, tmp_path: Path):
    write_photos(f"{s3_url}/photos", 2)
    Storage(f"{s3_url}/photos").write_bytes("p000.xmp", PLAIN)
    request = request_for(f"{s3_url}/photos", f"{s3_url}/out", tmp_path / "defender")
    assert run(request).sidecars == 1
    assert Storage(f"{s3_url}/out").read_bytes("p000.xmp") == PLAIN
    assert verify_target(f"{s3_url}/out").sidecars == 1

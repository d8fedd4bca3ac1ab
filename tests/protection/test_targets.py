"""An original is never written over: a target is not its source, does not hold it and does not lie in it."""

from pathlib import Path
from typing import Any

import pytest
from small_catalogs import tree, write_photos

from rid.assets.protection.targets import check_apart
from rid.resources.storage import Storage

OVERLAPPING = [
    ("s3://bucket/drop", "s3://bucket/drop"),
    ("s3://bucket/drop", "s3://bucket/drop/out"),  # the target inside the source
    ("s3://bucket/out/drop", "s3://bucket/out"),  # the source inside the target
    ("s3://bucket/out/a/b/c", "s3://bucket/out/a"),
    ("s3://bucket", "s3://bucket/out"),
    ("s3://bucket/drop", "s3://bucket"),
    ("s3://bucket/out/drop.parquet", "s3://bucket/out/"),
    ("/photos", "/photos/out"),
    ("/photos/drop", "/photos"),
    ("/photos/x/../drop", "/photos"),
]
APART = [
    ("s3://bucket/drop", "s3://bucket/drop-protected"),
    ("s3://bucket/drop-1", "s3://bucket/drop"),
    ("s3://bucket", "s3://bucket-2"),
    ("s3://bucket/drop", "s3://other/drop"),
    ("s3://photos/drop", "/photos"),
    ("/photos", "s3://photos/out"),
    ("/photos", "/photos-protected"),
]


@pytest.mark.parametrize(("source", "target"), OVERLAPPING)
def test_places_inside_each_other_are_refused_with_both_names(source: str, target: str) -> None:
    with pytest.raises(ValueError, match="overlap: choose a target outside of the source") as refused:
        check_apart(Storage(source), Storage(target))
    assert Storage(source).url in str(refused.value) and Storage(target).url in str(refused.value)


@pytest.mark.parametrize(("source", "target"), APART)
def test_places_beside_each_other_are_allowed(source: str, target: str) -> None:
    check_apart(Storage(source), Storage(target))


def test_links_do_not_hide_an_overlap(tmp_path: Path) -> None:
    (tmp_path / "real" / "drop").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for source, target in (("link/drop", "real"), ("real", "link/out")):
        with pytest.raises(ValueError, match="overlap"):
            check_apart(Storage(str(tmp_path / source)), Storage(str(tmp_path / target)))


@pytest.mark.parametrize("inside", ["source", "target"])
def test_the_command_writes_nothing_where_they_overlap(rid: Any, place: str, inside: str) -> None:
    """On disk and on S3, to the end: not one object is changed."""
    source, target = (f"{place}/all/drop", f"{place}/all") if inside == "source" else (place, f"{place}/out")
    write_photos(source, 2)
    before = tree(place)
    code, out, err = rid("protect", source, target, "--defender", "defender", "--workers", "0")
    assert (code, out) == (5, "") and "overlap" in err and err.count("\n") == 1
    assert tree(place) == before and len(before) == 2

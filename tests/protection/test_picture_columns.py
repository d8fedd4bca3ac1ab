"""Pictures beside the photo of a Parquet row: protected if named, passed if named, else the run is refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_catalogs import HERE, photo_bytes, request_for, run, tree

from rid.assets.catalog.picture_columns import PictureColumns, PicturesNotNamed, is_picture
from rid.assets.catalog.plan import plan_shards
from rid.assets.custody.forgetting import forget
from rid.assets.custody.verification import verify_target
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import catalogue, drop_work, run_drop
from rid.assets.protection.shards.task import probe_photo
from rid.assets.protection.shards.work import ProbeTask, ShardTask, ShardWork
from rid.models.photo_files.images import mark_of
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.resources.commits import ProtectedTable
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage

FACES = pa.list_(IMAGE)
ROWS = 6


def image(seed: int) -> dict[str, Any]:
    return {"bytes": photo_bytes(seed), "path": f"{seed}.jpg"}


def source_table() -> pa.Table:
    """Rows with a second image, a list of faces, a thumbnail in plain binary, and an embedding that is no picture."""
    rows = range(ROWS)
    return pa.table(
        {
            "image": pa.array([image(i) for i in rows], IMAGE),
            "image_2": pa.array([image(100 + i) if i != 2 else None for i in rows], IMAGE),
            "faces": pa.array([[image(200 + 10 * i + n) for n in range(i % 3)] for i in rows], FACES),
            "thumb": pa.array([photo_bytes(300 + i, "PNG", side=48) if i > 3 else b"" for i in rows], pa.binary()),
            "embedding": pa.array([bytes([i] * 64) for i in rows], pa.binary()),
            "caption": [f"photo {i}" for i in rows],
        }
    )


ALL = PictureColumns(protected=("image_2", "faces"), passed=("thumb",))


def put(table: pa.Table, url: str, name: str = "a.parquet") -> Storage:
    """Writes a table in row groups of two."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=2)
    source = Storage(url).child("in")
    source.write_bytes(name, sink.getvalue().to_pybytes())
    return source


@pytest.fixture
def request_(place: str, tmp_path: Path) -> ProtectionRequest:
    """A request for a table on disk, and for one on S3."""
    source = put(source_table(), place)
    policy = ProtectionPolicy(max_quarantined=100)
    target = f"{place}/out"
    return request_for(source.url, target, tmp_path / "defender", target_kind="table", columns=ALL, policy=policy)


def published(request: ProtectionRequest) -> list[dict[str, Any]]:
    table = request.target.receipts
    schema = table.schema()
    assert schema is not None
    rows: list[dict[str, Any]] = table.read(request.drop, schema.names).sort_by("caption").to_pylist()
    return rows


def put_original_back(table: ProtectedTable) -> None:
    """Writes the original of the fourth row's `image_2` into the drop's one shard file."""
    (path,) = table.live_files("d1")
    with table.storage.open(path) as file:
        whole = pq.ParquetFile(file).read()
    rows = whole.to_pylist()
    rows[3]["image_2"]["bytes"] = photo_bytes(103)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=whole.schema), sink)
    table.storage.write_bytes(path, sink.getvalue().to_pybytes())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_run_is_refused_with_the_names_of_the_columns_and_writes_nothing(
    request_: ProtectionRequest, place: str
) -> None:
    put(source_table().slice(4), place)
    with pytest.raises(PicturesNotNamed, match=r"in 'faces', 'image_2', 'thumb': they would be published") as refused:
        run(replace(request_, columns=PictureColumns()))
    assert "--image-column" in str(refused.value) and "--pass" in str(refused.value)
    assert "embedding" not in str(refused.value)
    assert not request_.target.storage.is_folder()
    with pytest.raises(PicturesNotNamed, match=r"in 'image_2': "):
        run(replace(request_, columns=PictureColumns(("faces",), ("thumb",))))


class Unstarted(Workers):
    """Workers that must not be needed."""

    def client(self, expected: int = 1) -> None:
        raise AssertionError("workers were started")


def test_what_types_and_first_rows_show_is_refused_before_any_worker_starts(
    request_: ProtectionRequest, place: str
) -> None:
    put(source_table().slice(4).select(["image", "thumb"]), place)
    with Unstarted(WorkerSettings()) as workers, pytest.raises(PicturesNotNamed, match="in 'thumb'"):
        run_drop(replace(request_, columns=PictureColumns()), workers)


def test_a_picture_in_a_later_row_group_is_found_while_planning(request_: ProtectionRequest) -> None:
    """The first rows have none in `thumb`; its type says nothing."""
    with pytest.raises(PicturesNotNamed, match=r"a\.parquet holds pictures beside its photos in 'thumb'"):
        run(replace(request_, columns=PictureColumns(("faces", "image_2"))))
    assert not request_.target.receipts.exists()


def test_named_columns_are_protected_and_passed(request_: ProtectionRequest, place: str) -> None:
    before = source_table().to_pylist()
    assert run(request_).protected == ROWS
    budget = request_.budget_levels
    for old, new in zip(before, published(request_), strict=True):
        assert new["thumb"] == old["thumb"] and new["embedding"] == old["embedding"]
        pictures = [new["image_2"], *new["faces"]] if new["image_2"] else list(new["faces"])
        assert (new["image_2"] is None) == (old["image_2"] is None) and len(new["faces"]) == len(old["faces"])
        originals = [old["image_2"], *old["faces"]] if old["image_2"] else list(old["faces"])
        for was, now in zip(originals, pictures, strict=True):
            assert now["path"] == was["path"] and now["bytes"] != was["bytes"]
            mark = mark_of(now["bytes"])
            assert mark is not None and (mark.defender_digest, mark.budget_levels) == (request_.defender.digest, budget)
        in_order = [*new["faces"], *([new["image_2"]] if new["image_2"] else [])]
        assert new["pictures_sha256"] == [sha256(one["bytes"]) for one in in_order]
    result = verify_target(request_.target.url)
    assert (result.passed, result.photos, result.pictures) == (True, ROWS, 5 + 6)


def test_a_finished_drop_stays_finished_and_a_lost_shard_is_the_same_again(request_: ProtectionRequest) -> None:
    run(request_)
    files, rows = tree(request_.target.url), published(request_)
    again = run(request_)
    assert (again.shards_written, again.committed) == (0, False)
    assert tree(request_.target.url) == files
    (path,) = request_.target.receipts.live_files("d1")
    request_.target.storage.delete(path)
    assert run(request_).shards_written == 1
    assert published(request_) == rows


def test_naming_the_photo_itself_or_in_another_order_changes_nothing(request_: ProtectionRequest) -> None:
    run(request_)
    named = PictureColumns(("faces", "image", "image_2", "image"), ("thumb",))
    assert run(replace(request_, columns=named)).shards_written == 0
    passed = replace(request_, columns=PictureColumns(("image_2",), ("thumb", "faces")))
    assert run(passed).photos_computed == ROWS
    assert published(passed)[1]["faces"] == source_table().to_pylist()[1]["faces"]


def test_a_photo_that_came_in_protected_keeps_its_bytes_and_its_other_pictures_do_not(
    request_: ProtectionRequest, place: str
) -> None:
    """The photo is skipped for a receipt. What stands beside it is protected, whether a mark is in it or not."""
    run(request_)
    ours = published(request_)
    rows = [row | {"image": kept["image"]} for row, kept in zip(source_table().to_pylist(), ours, strict=True)]
    rows[0]["image_2"] = ours[0]["image_2"]
    put(pa.Table.from_pylist(rows, schema=source_table().schema), f"{place}/again")
    again = replace(request_, source=Storage(f"{place}/again/in"), drop="d2")
    summary = run(again)
    assert (summary.skipped, summary.protected) == (ROWS, 0)
    for before, after in zip(rows, published(again), strict=True):
        assert after["image"]["bytes"] == before["image"]["bytes"]
        if before["image_2"] is not None:
            assert after["image_2"]["bytes"] != before["image_2"]["bytes"]
    assert verify_target(request_.target.url).passed

    trusting = replace(again, drop="d3", policy=replace(again.policy, trust_marks=True))
    assert run(trusting).skipped == ROWS
    assert published(trusting)[0]["image_2"]["bytes"] == ours[0]["image_2"]["bytes"], "its mark is trusted"
    assert published(trusting)[1]["image_2"]["bytes"] != rows[1]["image_2"]["bytes"], "it has none"


def test_a_row_is_probed_with_all_its_pictures(request_: ProtectionRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that ends its worker has to be found, whatever column it is in."""
    seen: list[bytes] = []
    monkeypatch.setattr(Protector, "protect", lambda _, data, name="", **options: seen.append(data))
    with Workers(HERE) as workers:
        catalog = catalogue(request_, workers)
    shard = next(plan_shards(catalog, request_.salt()))
    task = ShardTask(drop_work(request_, catalog, guarded=False), ShardWork(shard))
    assert probe_photo(ProbeTask(task, 4))
    row = source_table().to_pylist()[4]
    assert seen == [row["image"]["bytes"], row["faces"][0]["bytes"], row["image_2"]["bytes"]]


def test_rows_are_carried_over_with_their_pictures(request_: ProtectionRequest, place: str) -> None:
    run(request_)
    before = published(request_)
    extra = source_table().slice(0, 1).set_column(5, "caption", pa.array(["z"]))
    put(pa.concat_tables([source_table(), extra]), place)
    summary = run(request_)
    assert (summary.photos, summary.photos_computed) == (ROWS + 1, 1)
    after = published(request_)[:ROWS]
    kept = ("image", "image_2", "faces", "pictures_sha256", "output_sha256")
    assert [[row[name] for name in kept] for row in after] == [[row[name] for name in kept] for row in before]
    assert verify_target(request_.target.url).passed


def test_a_picture_that_is_not_what_was_published_is_not_carried_over(request_: ProtectionRequest) -> None:
    run(request_)
    before = published(request_)
    put_original_back(request_.target.receipts)
    assert run(request_).photos_computed == 1, "the others are carried over"
    assert published(request_) == before
    assert verify_target(request_.target.url).passed


@pytest.mark.parametrize("column", ["image", "image_2", "faces"])
def test_a_picture_that_cannot_be_protected_holds_its_row_back_whole(place: str, tmp_path: Path, column: str) -> None:
    broken = {"bytes": photo_bytes(1, side=400)[:2000], "path": "cut.jpg"}
    rows = source_table().to_pylist()
    rows[4][column] = [image(7), broken] if column == "faces" else broken
    source = put(pa.Table.from_pylist(rows, schema=source_table().schema), place)
    request = request_for(source.url, f"{place}/out", tmp_path / "defender", target_kind="table", columns=ALL)
    summary = run(request)
    assert (summary.protected, summary.quarantined) == (ROWS - 1, {"truncated": 1})
    row = published(request)[4]
    assert (row["image"], row["image_2"], row["faces"], row["pictures_sha256"]) == (None, None, None, [])
    assert (row["status"], row["output_sha256"], row["psnr"]) == ("quarantined", None, None)
    assert row["detail"].startswith(f"a picture in column {column!r}: " if column != "image" else "")
    assert row["caption"] == "photo 4", "the rest of the row is kept"
    assert verify_target(request.target.url).passed


def test_verify_finds_a_changed_picture_and_a_column_that_was_never_protected(
    request_: ProtectionRequest,
) -> None:
    run(request_)
    table = request_.target.receipts
    put_original_back(table)
    (finding,) = verify_target(request_.target.url).findings
    assert (finding.kind, finding.name) == ("changed", "3.jpg") and "'image_2'" in finding.detail

    state = request_.target.state.child("catalog", "d1")
    current = json.loads(state.read_bytes("current.json"))
    assert current.pop("columns") == {"protected": ["faces", "image_2"], "passed": ["thumb"]}
    state.write_bytes("current.json", json.dumps(current).encode())  # as a version that knew of no columns left it
    found = {(one.kind, one.name) for one in verify_target(request_.target.url).findings}
    assert found == {("unprotected", "faces"), ("unprotected", "image_2"), ("unprotected", "thumb")}


def test_a_drop_that_an_earlier_version_passed_is_refused_and_can_be_named(
    request_: ProtectionRequest, place: str
) -> None:
    """Its catalog does not say that anybody looked at its columns."""
    passed = replace(request_, columns=PictureColumns(passed=("image_2", "faces", "thumb")))
    run(passed)
    state = request_.target.state.child("catalog", "d1")
    current = json.loads(state.read_bytes("current.json"))
    del current["columns"]
    state.write_bytes("current.json", json.dumps(current).encode())
    with pytest.raises(PicturesNotNamed):
        run(replace(request_, columns=PictureColumns()))
    assert run(passed).shards_written == 0, "the same bytes are published: nothing is done again"
    assert verify_target(request_.target.url).passed
    assert run(request_).photos_computed == ROWS
    assert published(request_)[0]["image_2"]["bytes"] != photo_bytes(100)
    assert verify_target(request_.target.url).passed


def test_forgetting_a_photo_leaves_the_pictures_of_the_others(request_: ProtectionRequest) -> None:
    run(request_)
    before = {row["key"]: row for row in published(request_)}
    assert forget(request_.target.url, frozenset({"3.jpg"})).drops == {"d1": 1}
    after = {row["key"]: row for row in published(request_)}
    assert after.keys() == before.keys() - {"3.jpg"}
    for key, row in after.items():
        assert row | {"work_key": ""} == before[key] | {"work_key": ""}
    assert verify_target(request_.target.url).passed


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (PictureColumns(protected=("imgae_2",)), "has no column 'imgae_2'; it has image, image_2, faces, thumb"),
        (PictureColumns(passed=("nothing",)), "has no column 'nothing'"),
        (PictureColumns(protected=("caption",)), "column 'caption' of type string cannot be protected"),
    ],
)
def test_columns_that_are_not_there_or_hold_no_pictures_are_refused(
    request_: ProtectionRequest, columns: PictureColumns, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        run(replace(request_, columns=columns))


def test_a_struct_with_more_than_its_picture_cannot_be_protected(tmp_path: Path) -> None:
    """Whatever the second binary is, nobody would look at it again."""
    kind = pa.struct([("bytes", pa.binary()), ("mask", pa.binary())])
    rows = pa.table(
        {"image": pa.array([image(0)], IMAGE), "x": pa.array([{"bytes": photo_bytes(1), "mask": b""}], kind)}
    )
    request = request_for(put(rows, str(tmp_path)).url, tmp_path / "out", tmp_path / "defender", target_kind="table")
    with pytest.raises(ValueError, match="a struct whose one binary member is 'bytes'"):
        run(replace(request, columns=PictureColumns(("x",))))


def test_the_column_of_digests_is_not_taken_from_a_source(tmp_path: Path) -> None:
    rows = pa.table({"image": pa.array([image(0)], IMAGE), "Pictures_SHA256": ["mine"]})
    request = request_for(put(rows, str(tmp_path)).url, tmp_path / "out", tmp_path / "defender", target_kind="table")
    with pytest.raises(ValueError, match="'Pictures_SHA256' clashes with a column of the receipts"):
        run(request)


def test_a_column_is_named_once_and_image_files_have_none(request_: ProtectionRequest, place: str) -> None:
    with pytest.raises(ValueError, match="column 'a' is to be protected and to be passed: name it once"):
        PictureColumns(("a",), ("a",))
    source = Storage(place).child("files")
    source.write_bytes("a.jpg", photo_bytes(0))
    with pytest.raises(ValueError, match="no columns, since it is of image files"):
        run(replace(request_, source=source))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.map_(pa.string(), pa.binary()), [[("a", b"text")], [("a", photo_bytes(1))]]),
        (
            pa.struct([("name", pa.string()), ("data", pa.binary())]),
            [None, {"name": "", "data": photo_bytes(1, "PNG")}],
        ),
        (pa.list_(pa.list_(pa.binary())), [[], [[b"", photo_bytes(1)]]]),
        (pa.large_binary(), [b"", b"GIF89a" + bytes(20)]),
        (pa.binary(), [b"BM the two letters alone", b"\0\0\0\x18ftypheic" + bytes(20)]),
        (pa.struct([("bytes", pa.binary()), ("sampling_rate", pa.int32())]), [None, None]),
    ],
)
def test_pictures_are_found_at_any_depth_and_of_any_format(
    tmp_path: Path, kind: pa.DataType, values: list[Any]
) -> None:
    rows = pa.table({"image": pa.array([image(0), image(1)], IMAGE), "x": pa.array(values, kind)})
    source = put(rows, str(tmp_path))
    request = request_for(source.url, tmp_path / "out", tmp_path / "defender", target_kind="table")
    with pytest.raises(PicturesNotNamed, match="in 'x'"):
        run(request)
    assert run(replace(request, columns=PictureColumns(passed=("x",)))).protected == 2


def test_bytes_that_only_look_a_little_like_pictures_pass(tmp_path: Path) -> None:
    for data in (b"", b"BM", b"BM25 scores of a text, as long as one likes", b"RIFF....WAVEfmt ", bytes(64)):
        assert not is_picture(data)
    rows = pa.table({"image": pa.array([image(0)], IMAGE), "x": pa.array([b"RIFF....WAVEfmt "], pa.binary())})
    request = request_for(put(rows, str(tmp_path)).url, tmp_path / "out", tmp_path / "defender", target_kind="table")
    assert run(request).protected == 1


def test_the_command_refuses_protects_and_says_what_it_verified(rid: Any, tmp_path: Path) -> None:
    put(source_table(), str(tmp_path))
    command = ("protect", "in", "out", "--defender", "defender", "--workers", "0")
    for more in ((), ("--dry-run",)):
        code, out, err = rid(*command, *more)
        assert (code, out) == (5, "") and err.count("\n") == 1 and "'image_2'" in err
    assert not (tmp_path / "out").exists()
    named = ("--image-column", "image_2", "--image-column", "faces", "--pass", "thumb")
    assert rid(*command, *named)[0] == 0
    code, out, _ = rid("verify", "out")
    assert code == 0 and "11 pictures in other columns" in out

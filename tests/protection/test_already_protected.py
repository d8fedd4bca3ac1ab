"""Photos that come in protected: skipped if their mark holds and a receipt bears it out, else protected anew."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_catalogs import HERE, photo_bytes, request_for, run, tree, write_photos
from tiny_defender import write_tiny_defender

from rid.assets.catalog.plan import read_current
from rid.assets.custody.verification import verify_target
from rid.assets.protection.known_photos import known_rows
from rid.assets.protection.run import RowsDoNotAddUp, run_drop
from rid.assets.protection.shards.task import protect_shard
from rid.assets.protection.shards.work import ShardTask
from rid.assets.protection.targets import Target
from rid.models.photo_files.images import decode, mark_of
from rid.models.policy import READ_ALL, ProtectionPolicy
from rid.resources.commits import ProtectedTable
from rid.resources.dask_workers import Workers
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage

COLUMNS = ["key", "status", "reason", "detail", "flags", "output_path", "bytes_out", "pixels_sha256", "engine"]


def receipts(request, columns=(*COLUMNS, "input_sha256", "output_sha256")) -> dict[str, dict]:
    return {row["key"]: row for row in request.target.receipts.read(request.drop, columns).to_pylist()}


def outputs(url) -> dict[str, str]:
    return tree(url, without=("_rid", "_delta_log", "drop="))


@pytest.fixture
def first(tmp_path: Path):
    """A drop of six photos that was protected into `out`."""
    write_photos(tmp_path / "photos", 4)
    write_photos(tmp_path / "photos", 2, first=10, kind="PNG")
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender")
    run(request)
    return request


def second(tmp_path: Path, target: Path | str, source: str | Path = "", **changes):
    """A request for a drop d2."""
    fields = {"drop": "d2"} | changes
    return request_for(source or tmp_path / "again", target, tmp_path / "defender", **fields)


def copy_published(tmp_path: Path, prefix: str = "again/back") -> None:
    """Puts protected photos where another drop finds them, under other names."""
    for name in outputs(tmp_path / "out"):
        Storage(str(tmp_path)).write_bytes(f"{prefix}/{name}", (tmp_path / "out" / name).read_bytes())


def edited(data: bytes) -> bytes:
    """The same file, mark and all, with a square painted over."""
    photo = decode(data, READ_ALL)
    pixels = photo.pixels.copy()
    pixels[8:40, 8:40] = 128
    return photo.write(pixels)


def test_every_receipt_has_the_digest_that_its_mark_names(first, tmp_path: Path):
    for name, row in receipts(first).items():
        mark = mark_of((tmp_path / "out" / name).read_bytes())
        assert mark is not None and mark.pixels_sha256 == row["pixels_sha256"]
        assert mark.defender_digest == first.defender.digest and mark.budget_levels == 6


@pytest.mark.parametrize("kind", ["files", "table"])
def test_photos_that_this_target_published_are_carried_along(first, tmp_path: Path, kind: str):
    copy_published(tmp_path)
    write_photos(tmp_path / "again", 2, first=20)
    target = tmp_path / "out" if kind == "files" else tmp_path / "table"
    request = second(tmp_path, target, target_kind=kind, known=(first.target.receipts,))
    before = outputs(tmp_path / "out")
    summary = run(request)
    assert (summary.protected, summary.skipped, summary.quarantined, summary.photos_computed) == (2, 6, {}, 2)
    rows = {name: row for name, row in receipts(request).items() if name.startswith("back/")}
    for name, row in rows.items():
        came = (tmp_path / "again" / name).read_bytes()
        assert (row["status"], row["reason"], row["engine"], row["flags"]) == (
            "skipped",
            "already_protected",
            "none",
            [],
        )
        assert row["output_sha256"] == row["input_sha256"] and row["bytes_out"] == len(came)
        assert row["detail"] == f"by defender {first.defender.digest[:12]} at a budget of 6 levels"
        assert row["pixels_sha256"] == mark_of(came).pixels_sha256
        assert row["output_path"] == (name if kind == "files" else None)
        if kind == "files":
            assert (target / name).read_bytes() == came
    if kind == "files":
        assert {name: digest for name, digest in outputs(target).items() if name in before} == before
    else:
        images = request.target.receipts.read("d2", ["key", "image"]).to_pylist()
        assert all(
            row["image"]["bytes"] == (tmp_path / "again" / row["key"]).read_bytes()
            for row in images
            if row["key"] in rows
        )
    result = verify_target(str(target))
    assert result.passed and result.published == (8 + 6 if kind == "files" else 8)
    done = run(request)
    assert (done.committed, done.shards_written, done.skipped) == (False, 0, 6)


def test_parquet_rows_are_skipped_too(first, tmp_path: Path):
    images = [(tmp_path / "out" / name).read_bytes() for name in sorted(outputs(tmp_path / "out"))]
    images = [{"bytes": data, "path": f"{i}"} for i, data in enumerate([*images, photo_bytes(50)])]
    (tmp_path / "again").mkdir()
    pq.write_table(pa.table({"image": pa.array(images, IMAGE), "n": range(7)}), tmp_path / "again" / "a.parquet")
    request = second(tmp_path, tmp_path / "table", target_kind="table", known=(first.target.receipts,))
    summary = run(request)
    assert (summary.protected, summary.skipped) == (1, 6)
    rows = request.target.receipts.read("d2", ["n", "image", "status"]).to_pylist()
    assert sorted(row["n"] for row in rows) == list(range(7))
    assert all(row["image"]["bytes"] == images[row["n"]]["bytes"] for row in rows if row["status"] == "skipped")


def test_a_receipt_bears_out_its_own_photo_alone(first, tmp_path: Path):
    """Another photo of the shard has a mark that holds, by a deployment that is not known here."""
    write_photos(tmp_path / "theirs", 1, first=70)
    run(request_for(tmp_path / "theirs", tmp_path / "elsewhere", tmp_path / "defender"))
    again = Storage(str(tmp_path / "again"))
    again.write_bytes("ours.jpg", (tmp_path / "out" / "p000.jpg").read_bytes())
    again.write_bytes("theirs.jpg", (tmp_path / "elsewhere" / "p070.jpg").read_bytes())
    request = second(tmp_path, tmp_path / "out")
    run(request)
    rows = receipts(request)
    assert (rows["ours.jpg"]["status"], rows["theirs.jpg"]["status"]) == ("skipped", "protected")
    assert rows["theirs.jpg"]["flags"] == ["mark_replaced"]


def test_metadata_that_was_edited_since_changes_nothing(first, tmp_path: Path):
    """Its sha256 is another one, but its pixels and its mark are those of a receipt."""
    data = (tmp_path / "out" / "p000.jpg").read_bytes()
    Storage(str(tmp_path)).write_bytes("again/new.jpg", data[:2] + b"\xff\xfe\x00\x0bA caption" + data[2:])
    request = second(tmp_path, tmp_path / "out")
    assert run(request).skipped == 1
    assert receipts(request)["new.jpg"]["pixels_sha256"] == receipts(first)["p000.jpg"]["pixels_sha256"]


def test_edited_pixels_and_copied_marks_are_protected_anew(first, tmp_path: Path):
    once = (tmp_path / "out" / "p000.jpg").read_bytes()
    victim = decode(photo_bytes(60), READ_ALL)
    stolen = replace(victim, xmp=decode(once, READ_ALL).xmp).write(victim.pixels)
    files = {"edited.jpg": edited(once), "edited.png": edited((tmp_path / "out/p010.png").read_bytes())}
    for name, data in (files | {"stolen.jpg": stolen}).items():
        assert mark_of(data) is not None
        Storage(str(tmp_path)).write_bytes(f"again/{name}", data)
    request = second(tmp_path, tmp_path / "out")
    trusting = second(tmp_path, tmp_path / "trusting", policy=ProtectionPolicy(trust_marks=True))
    for asked in (request, trusting):
        summary = run(asked)
        assert (summary.protected, summary.skipped) == (3, 0)
        for name, row in receipts(asked).items():
            written = Path(asked.target.url, name).read_bytes()
            assert "mark_replaced" in row["flags"] and mark_of(written).pixels_sha256 == row["pixels_sha256"]
    assert outputs(tmp_path / "trusting").items() <= outputs(tmp_path / "out").items()


def test_a_mark_that_no_receipt_bears_out_is_trusted_only_if_asked(first, tmp_path: Path):
    copy_published(tmp_path)
    strangers = second(tmp_path, tmp_path / "elsewhere")
    assert (run(strangers).protected, run(strangers).skipped) == (6, 0)
    trusting = second(tmp_path, tmp_path / "trusting", policy=ProtectionPolicy(trust_marks=True))
    assert (run(trusting).protected, run(trusting).skipped) == (0, 6)
    assert all(row["flags"] == ["mark_trusted"] for row in receipts(trusting).values())
    assert outputs(tmp_path / "trusting") == outputs(tmp_path / "again")
    # Trust does not make them known: without it they are protected anew, here too.
    doubting = replace(trusting, policy=ProtectionPolicy())
    assert (run(doubting).protected, run(doubting).skipped) == (6, 0)


def test_what_was_decided_stays_decided_until_it_is_asked_again(first, tmp_path: Path):
    """Other photos come, and the receipts that bore the marks out go: the skipped photos are not changed for that."""
    copy_published(tmp_path)
    request = second(tmp_path, tmp_path / "new", known=(first.target.receipts,))
    run(request)
    before = outputs(tmp_path / "new")
    unknowing = replace(request, known=())
    write_photos(tmp_path / "again", 1, first=30)
    summary = run(unknowing)
    assert (summary.protected, summary.skipped, summary.photos_computed) == (1, 6, 1)
    assert before.items() <= outputs(tmp_path / "new").items()
    (tmp_path / "new" / "back" / "p000.jpg").unlink()
    # Its own receipt says that it was known when it was skipped.
    assert (run(unknowing).skipped, outputs(tmp_path / "new").items() >= before.items()) == (6, True)
    retried = run(replace(unknowing, retry=("already_protected",)))
    assert (retried.skipped, retried.photos_computed) == (6, 0)
    stranger = replace(unknowing, target=Target(Storage(str(tmp_path / "other")), "files"))
    assert run(stranger).skipped == 0


def test_a_retry_decides_again(first, tmp_path: Path):
    copy_published(tmp_path)
    trusting = second(tmp_path, tmp_path / "new", policy=ProtectionPolicy(trust_marks=True))
    run(trusting)
    for name in outputs(tmp_path / "again"):
        data = (tmp_path / "again" / name).read_bytes()
        assert (tmp_path / "new" / name).read_bytes() == data
    asked = replace(trusting, retry=("already_protected",), known=(first.target.receipts,))
    summary = run(asked)
    assert (summary.skipped, summary.committed) == (6, True)
    assert all(row["flags"] == [] for row in receipts(trusting).values())  # a receipt bears them out now


def test_a_new_defender_does_not_protect_on_top_of_another(first, tmp_path: Path):
    """Originals that were overwritten by their protected versions are still known after the policy changed."""
    for name in outputs(tmp_path / "out"):
        (tmp_path / "photos" / name).write_bytes((tmp_path / "out" / name).read_bytes())
    before = outputs(tmp_path / "out")
    assert (run(first).skipped, run(first).protected) == (6, 0)
    write_tiny_defender(tmp_path / "other", seed=3)
    for changed in (
        request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "other"),
        replace(first, policy=ProtectionPolicy(min_survival=0.5)),
    ):
        assert (run(changed).skipped, run(changed).protected) == (6, 0)
    assert outputs(tmp_path / "out") == before


def test_unmarked_and_finished_drops_cost_no_look_at_receipts(first, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked = []
    monkeypatch.setattr(
        "rid.assets.protection.known_photos._published", lambda tables, wanted: looked.append(wanted) or set()
    )
    write_photos(tmp_path / "photos", 1, first=40)
    run(first)
    assert not looked
    copy_published(tmp_path)
    request = second(tmp_path, tmp_path / "elsewhere")
    run(request)
    run(request)
    assert len(looked) == 1 and len(looked[0]) == 14


def test_receipts_without_the_column_are_read_too(first, tmp_path: Path):
    """A table of an earlier version knows its photos by the sha256 of their files."""
    copy_published(tmp_path)
    request = second(tmp_path, tmp_path / "new")
    run(request)
    catalog = read_current(request.target.state, "d2")
    rows = [row | {"drop": "d1"} for row in receipts(first).values()]
    old = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "pixels_sha256"} for row in rows])
    from deltalake import write_deltalake

    write_deltalake(str(tmp_path / "old"), old, partition_by=["drop"])
    assert known_rows(catalog, [0], [ProtectedTable(Storage(str(tmp_path / "old")))]) == {0: tuple(range(6))}
    assert known_rows(catalog, [0], [ProtectedTable(Storage(str(tmp_path / "nothing")))]) == {}


def test_a_policy_without_marks_writes_none_and_still_skips(first, tmp_path: Path):
    write_photos(tmp_path / "again", 1, first=70)
    copy_published(tmp_path)
    request = second(tmp_path, tmp_path / "out", policy=ProtectionPolicy(mark=False))
    summary = run(request)
    assert (summary.protected, summary.skipped) == (1, 6)
    assert receipts(request)["p070.jpg"]["pixels_sha256"] is None
    assert mark_of((tmp_path / "out" / "p070.jpg").read_bytes()) is None


def test_on_s3(s3_url: str, tmp_path: Path):
    write_photos(f"{s3_url}/photos", 2)
    request = request_for(f"{s3_url}/photos", f"{s3_url}/out", tmp_path / "defender")
    run(request)
    for name in ("p000.jpg", "odd/p001.jpg"):
        Storage(f"{s3_url}/again").write_bytes(f"back/{name}", Storage(f"{s3_url}/out").read_bytes(name))
    summary = run(second(tmp_path, f"{s3_url}/out", f"{s3_url}/again"))
    assert (summary.protected, summary.skipped) == (0, 2)
    assert verify_target(f"{s3_url}/out").passed


def test_the_command_knows_this_deployment_and_what_it_is_told(
    first, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from rid.dagster_project import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def rid(*arguments: str) -> tuple[int, str]:
        command = ["rid", "protect", *arguments, "--defender", "defender", "--workers", "0", "--json"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        printed = capsys.readouterr()
        return int(leaving.value.code or 0), printed.out or printed.err

    copy_published(tmp_path)
    for target, options, skipped in (
        ("a", (), 0),
        ("b", ("--trust-marks",), 6),
        ("c", ("--known", "out"), 6),
    ):
        code, out = rid("again", target, *options)
        assert (code, json.loads(out)["skipped"]) == (0, skipped)
    code, out = rid("again", "d", "--known", "photos")
    assert code == 5 and "photos holds no receipts" in out
    home = request_for(
        tmp_path / "photos", tmp_path / "rid-home" / "protected", tmp_path / "defender", target_kind="table"
    )
    run(home)
    code, out = rid("again", "e")
    assert (code, json.loads(out)["skipped"]) == (0, 6)


def test_the_asset_knows_its_own_table_and_what_it_is_told(first, tmp_path: Path):
    from rid.assets.configs import ProtectionConfig, drop_request
    from rid.resources.places import Places

    copy_published(tmp_path, "drops/d2")
    write_photos(tmp_path / "drops" / "d3", 1, first=80)
    home = str(tmp_path / "home")
    places = Places(home=home, source=str(tmp_path / "drops"), weights=str(tmp_path / "none"))

    def protect(drop: str, **config) -> tuple[int, int]:
        asked = ProtectionConfig(defender=str(tmp_path / "defender"), **config)
        summary = run(drop_request(drop, asked, places))
        return summary.protected, summary.skipped

    assert protect("d2") == (6, 0)
    told = {"known": [str(tmp_path / "out")]}
    assert protect("d2", **told) == (6, 0)  # it was decided before
    assert protect("d2", **told, retry=["already_protected"]) == (0, 6)
    assert protect("d2") == (0, 6)
    assert protect("d2", trust_marks=True) == (0, 6)
    assert protect("d2", **told) == (0, 6)  # another policy's shard was live: it is decided anew
    assert protect("d3") == (1, 0)
    (row,) = places.protected_table().read("d3", ["key", "image"]).to_pylist()
    Storage(str(tmp_path / "drops")).write_bytes("d4/came-back.jpg", row["image"]["bytes"])
    assert protect("d4") == (0, 1)
    with pytest.raises(ValueError, match="holds no receipts"):
        protect("d4", known=[str(tmp_path / "photos")])


def test_runs_that_decide_differently_do_not_write_over_each_other(first, tmp_path: Path):
    """The plans of two runs differ in what other drops' receipts said when each was made."""
    copy_published(tmp_path)
    request = second(tmp_path, tmp_path / "table", target_kind="table", known=(first.target.receipts,))
    seen: list[ShardTask] = []
    with Workers(HERE) as workers:
        run_here = workers.run

        def stop_at_shards(function, tasks, **options):
            if function is not protect_shard:
                return run_here(function, tasks, **options)
            seen.extend(tasks)
            return iter(())

        workers.run = stop_at_shards  # type: ignore[method-assign]
        with pytest.raises(RowsDoNotAddUp):
            run_drop(request, workers)
    (task,) = seen
    assert len(task.known) == 6
    skipping, protecting = protect_shard(task), protect_shard(replace(task, known=()))
    assert skipping.path != protecting.path
    assert (skipping.outcomes["skipped"], protecting.outcomes["protected"]) == (6, 6)
    assert protect_shard(task) == replace(skipping, written=False, computed=0), "the first one's file is as it was"

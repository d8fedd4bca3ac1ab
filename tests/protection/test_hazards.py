"""Every hazard of hostile catalogs, photos, keys, URIs and defenders, and what becomes of it. Where each is tested:

- decompression bombs and huge sides: the hostile folder here; test_images, test_guarded_protector (memory, deadline)
- spoofed and polyglot files, animated ones, odd modes: the hostile folder here; test_images, test_metadata
- hostile EXIF, XMP, ICC: here, with a limit of time; test_metadata, test_xmp
- catalog keys: the hostile folder (as files), here (as rows and as S3 keys); test_drop_plan, test_storage
- URIs in a catalog: here
- Parquet bombs and damaged pages: here for runs; test_catalogs
- pickles: here; published checkpoints: test_published
- foreign ONNX: here; test_engines, test_defender_registry
- secrets in logs and errors, names in logs, task keys and events: here; task keys also in test_dask_cluster
- listening sockets: here for a run; test_dask_cluster for workers, and for schedulers elsewhere without TLS
- links and pipes: the hostile folder here; test_storage
"""

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_photos import HIDDEN, PHOTO, PROTECTED, Exploit, hostile_files, odd_metadata, write_hostile_folder
from odd_photos import encoded
from PIL import Image
from poisoned_photos import poison
from rid_commands import ROOT, protect, start
from s3_server import SECRET, S3Server
from small_catalogs import HERE, photo_bytes, request_for, run, tree, write_parquet, write_photos
from tiny_defender import build_model, write_tiny_defender

from rid.assets.catalog.index_task import describe
from rid.assets.catalog.uris import UriNotAllowed, read_uri, with_own_prefix
from rid.assets.protection.run import run_drop
from rid.models.engines import OnnxEngine
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.resources.commits import ProtectedTable
from rid.resources.dask_workers import Workers
from rid.resources.records import CatalogRow
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage, StorageUrlError

ANY_SHARE = ProtectionPolicy(max_quarantined_share=1.0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tiny_defender(tmp_path / "defender")
    return tmp_path


def outcomes(request) -> dict[str, str]:
    """Status or reason by key."""
    rows = request.target.receipts.read(request.drop, ["key", "status", "reason"]).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row["reason"] or row["status"] for row in rows}


def one_sentence(err: str) -> bool:
    return err.startswith("rid: ") and err.count("\n") == 1 and "Traceback" not in err


# ------------------------------------------------------------------------------------------- hostile folders


@pytest.mark.slow
def test_a_folder_of_hostile_and_odd_files(place: Path):
    """Through `rid protect`: exit code 3, every file accounted for, memory bounded, nothing written elsewhere."""
    fates = write_hostile_folder(place / "photos", place / "trap")
    (place / "policy.json").write_text(ANY_SHARE.to_json())
    for name in ("tmp", "cwd", "user"):
        (place / name).mkdir()
    folders = {"TMPDIR": str(place / "tmp"), "HOME": str(place / "user"), "RID_CACHE": str(place / "user" / "cache")}
    before = listing(place)
    arguments = (str(place / "photos"), str(place / "out"), "--defender", str(place / "defender"), "--drop", "d")
    options = ("--workers", "2", "--json", "--policy", str(place / "policy.json"))
    process = start(place, "protect", *arguments, *options, **folders, RID_HOME=str(place / "user" / "home"))
    peaks: dict[int, int] = {}
    ports: set[str] = set()
    while process.poll() is None:
        for member in family(process.pid):
            with contextlib.suppress(psutil.Error):
                peaks[member.pid] = max(peaks.get(member.pid, 0), member.memory_info().rss)
                ports |= {c.laddr.ip for c in member.net_connections() if c.status == psutil.CONN_LISTEN}
        time.sleep(0.05)
    out, err = process.communicate()
    assert process.returncode == 3, err
    assert HIDDEN not in err and "jane" not in err
    assert ports == {"127.0.0.1"}
    assert len(peaks) >= 5 and max(peaks.values()) < 700 * 2**20

    summary = json.loads(out)
    table = ProtectedTable(Storage(str(place / "out" / "_rid")))
    rows = table.read("d", ["key", "status", "reason", "detail", "flags"]).to_pylist()
    assert {row["key"]: row["reason"] or row["status"] for row in rows} == fates
    assert summary["photos"] == len(rows) == len(fates)
    assert summary["photos"] == summary["protected"] + sum(summary["quarantined"].values())
    assert not any(row["reason"] == "internal_error" for row in rows)

    published = tree(place / "out", without=("_rid",))
    assert set(published) == {key for key, fate in fates.items() if fate == PROTECTED}
    assert not (place / "trap").exists()
    changed = {path for path, _ in listing(place).items() ^ before.items() if not path.startswith("out/")}
    locks = {"tmp/dask-scratch-space/global.lock", "tmp/dask-scratch-space/purge.lock"}  # empty files of Dask's
    assert changed - locks == set(), "something was written outside of the target"
    originals = hostile_files(place / "trap")
    for key in published:
        if key in originals and key not in odd_metadata():
            with Image.open(io.BytesIO(originals[key][0])) as was, Image.open(place / "out" / key) as now:
                assert (was.size, "JPEG" if was.format == "MPO" else was.format) == (now.size, now.format), key


def family(pid: int) -> list[psutil.Process]:
    """A process and everything it started."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def indexed(data: bytes, name: str) -> CatalogRow:
    """The catalog's row of a photo."""
    row = CatalogRow(key=name, source_uri=name, identity="", bytes_in=len(data))
    return describe(row, data, ProtectionPolicy())


def listing(place: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file and link, by path; folders by path alone."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(place)):
        for name in [*files, *(f for f in folders if os.path.islink(os.path.join(folder, f)))]:  # noqa: PTH114, PTH118
            path = os.path.join(folder, name)  # noqa: PTH118 (the names are bytes)
            state = os.lstat(path)
            found[os.path.relpath(path, os.fsencode(place)).decode(errors="replace")] = (
                state.st_size,
                state.st_mtime_ns,
            )
    return found


@pytest.mark.parametrize("name", sorted(odd_metadata()))
def test_hostile_metadata_costs_little_time_and_no_photo(name: str):
    data = odd_metadata()[name]()
    protector = Protector(OnnxEngine(build_model()), ProtectionPolicy(), 6)
    began = time.process_time()
    row = indexed(data, name)
    assert time.process_time() - began < 1.0, "a header is read where there is no deadline"
    assert row.reason is None
    result = protector.protect(data, name)
    assert time.process_time() - began < 8.0
    assert result.survival_gain > 0.3


def test_many_markers_cost_neither_time_nor_memory():
    kinds = b"".join(struct.pack(">Q", i << 32) for i in range(2**20))
    chain = b"".join(struct.pack("<IHHHII", 8 + 18 * i, 1, 254, 4, 1, 1) for i in range(2**17))
    hostile = {
        "segments.jpg": b"\xff\xd8" + b"\xff\xe5\x00\x02" * 2**22,
        "markers.jpg": b"\xff\xd8" + b"\xff\x01" * 2**23,
        "chunks.png": encoded(PHOTO, "PNG")[:33] + (bytes(4) + b"tEXt" + bytes(4)) * 2**20,
        "chunks.webp": b"RIFF" + struct.pack("<I", 2**24) + b"WEBP" + kinds,
        "directories.tif": b"II*\x00" + chain,
    }
    for name, data in hostile.items():
        began = time.process_time()
        row = indexed(data, name)
        assert row.reason in ("decode_error", "animated"), (name, row)
        assert time.process_time() - began < 2.0, name


def test_a_photo_that_no_reader_foresaw_is_a_row_and_its_error_names_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from rid.models.photo_files.png import codec as png

    write_photos(place / "photos", 3)
    (place / "photos" / f"{HIDDEN}.png").write_bytes(encoded(PHOTO, "PNG"))

    def broken(*_: object) -> None:
        raise RecursionError(HIDDEN)

    monkeypatch.setattr(png, "read_header", broken)
    request = request_for(place / "photos", place / "out", place / "defender")
    summary = run(request)
    assert (summary.protected, summary.quarantined) == (3, {"internal_error": 1})
    assert "RecursionError at test_hazards.py" in caplog.text and HIDDEN not in caplog.text


def test_no_program_is_started_for_a_photo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Pillow calls Ghostscript and others for formats that are never read here."""

    def started(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a program was started: {arguments}")

    for name in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, started)
    monkeypatch.setattr(os, "system", started)
    protector = Protector(OnnxEngine(build_model()), ProtectionPolicy(), 6)
    for name, (data, fate) in hostile_files(tmp_path / "trap").items():
        if fate == "unsupported_format":
            assert indexed(data, name).reason == fate
            with pytest.raises(Exception, match=fate):
                protector.protect(data, name)
    assert not (tmp_path / "trap").exists()


# ---------------------------------------------------------------------------------------------------- keys


HOSTILE_KEYS = [
    "../../up.jpg",
    "/etc/absolute.jpg",
    "nul\x00.jpg",
    "gpj.\u202eevil.jpg",
    "k" * 2000 + ".jpg",
    "a/../../b.jpg",
    "_rid/x.jpg",
    "C:\\x.jpg",
    "'; drop table x; --.jpg",
    "line\nfeed.jpg",
]


def test_keys_of_rows_are_data_and_no_places(place: Path):
    images = [{"bytes": photo_bytes(i), "path": key} for i, key in enumerate(HOSTILE_KEYS)]
    (place / "in").mkdir()
    pq.write_table(pa.table({"image": pa.array(images, IMAGE)}), place / "in" / "a.parquet")
    before = listing(place)
    request = request_for(place / "in", place / "out", place / "defender", target_kind="table")
    assert run(request).protected == len(HOSTILE_KEYS)
    assert set(outcomes(request)) == set(HOSTILE_KEYS)
    new = set(listing(place)) - set(before)
    assert all(path.startswith(("out/drop=d1/", "out/_delta_log/", "out/_rid/_state/catalog/d1/")) for path in new)


def test_keys_on_s3_that_are_no_paths_are_rows(place: Path, s3_url: str):
    import s3fs

    client = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for name in ("good.jpg", "line\nfeed.jpg", "gpj.\u202eevil.jpg", "Case.jpg", "case.jpg"):
        client.pipe_file(f"{s3_url}/photos/{name}", photo_bytes(len(name)))
    request = request_for(f"{s3_url}/photos", place / "out", place / "defender")
    found = dict.fromkeys(("good.jpg",), "protected") | dict.fromkeys(("Case.jpg", "case.jpg"), "name_collision")
    run(request)
    unsafe = dict.fromkeys(("line\nfeed.jpg", "gpj.\u202eevil.jpg"), "unsafe_name")
    assert outcomes(request) == found | unsafe
    assert set(tree(place / "out", without=("_rid",))) == {"good.jpg"}


# ---------------------------------------------------------------------------------------------------- URIs


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on loopback, and the requests that it got."""
    hits: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", hits
    server.shutdown()
    server.server_close()


def test_a_catalogs_uris_reach_nothing_but_its_own_place(
    place: Path, listener: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
):
    address, hits = listener
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, f"http://{address}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "operators-secret")
    write_photos(place / "in", 2)
    (place / "private").mkdir()
    (place / "private" / "x.jpg").write_bytes(photo_bytes(9))
    (place / "in" / "link.jpg").symlink_to(place / "private" / "x.jpg")
    hostile = [
        f"http://{address}/x.jpg",
        f"https://{address}/x.jpg",
        f"ftp://{address}/x.jpg",
        f"simplecache::http://{address}/x.jpg",
        f"zip://x.jpg::http://{address}/a.zip",
        f"github://a:b@{address}/x.jpg",
        "s3://somebody-elses-bucket/x.jpg",
        "s3://key:secret@bucket/x.jpg",
        f"file://{address}/x.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        "../private/x.jpg",
        str(place / "private" / "x.jpg"),
        f"file://{place}/in/../private/x.jpg",
        str(place / "in" / "link.jpg"),
        "~root/x.jpg",
        "//" + address + "/x.jpg",
        "x" * 5000,
        "nul\x00.jpg",
        "",
        ".",
        "p000.jpg/below.jpg",
        "memory://x.jpg",
    ]
    good = ["p000.jpg", str(place / "in" / "odd" / "p001.jpg"), f"file://{place}/in/p000.jpg"]
    pq.write_table(pa.table({"uri": hostile + good}), place / "in" / "rows.parquet")
    request = request_for(
        place / "in" / "rows.parquet", place / "out", place / "defender", target_kind="table", policy=ANY_SHARE
    )
    summary = run(request)
    found = outcomes(request)
    assert {key for key, fate in found.items() if fate == "protected"} == set(good)
    assert set(found.values()) == {"protected", "unreadable", "uri_not_allowed"}
    assert found[str(place / "private" / "x.jpg")] == found["s3://somebody-elses-bucket/x.jpg"] == "uri_not_allowed"
    assert (summary.photos, hits) == (len(hostile) + len(good), [])


def test_prefixes_that_an_operator_adds_are_open_and_no_others(place: Path):
    for name in ("in", "more", "more-private"):
        (place / name).mkdir()
        (place / name / "x.jpg").write_bytes(photo_bytes(1))
    prefixes = with_own_prefix(Storage(str(place / "in")), (str(place / "more"),))
    assert read_uri(str(place / "more" / "x.jpg"), prefixes) == read_uri("x.jpg", prefixes) == photo_bytes(1)
    for uri in (place / "more-private" / "x.jpg", place / "more" / ".." / "more-private" / "x.jpg"):
        with pytest.raises(UriNotAllowed):
            read_uri(str(uri), prefixes)
    with pytest.raises(StorageUrlError):
        with_own_prefix(Storage(str(place / "in")), ("http://host/",))
    bucket = with_own_prefix(Storage("s3://mine/photos/2026"), ("s3://theirs/shared",))
    for uri in (
        "s3://theirs/x.jpg",
        "s3://theirs/shared-not/x.jpg",
        "s3://mine/../theirs/x.jpg",
        "s3://minefield/x.jpg",
    ):
        with pytest.raises(UriNotAllowed):
            read_uri(uri, bucket)


def test_the_option_reaches_the_workers(place: Path):
    write_photos(place / "elsewhere", 2)
    (place / "in").mkdir()
    pq.write_table(pa.table({"uri": [str(place / "elsewhere" / "p000.jpg")]}), place / "in" / "a.parquet")
    code, summary, _ = protect(place, "in", "out", "--drop", "d", workers=0)
    assert (code, summary["quarantined"]) == (3, {"uri_not_allowed": 1})
    code, summary, err = protect(place, "in", "out", "--drop", "d", "--allow-uri", "elsewhere", workers=0)
    assert (code, summary["protected"]) == (0, 1), err


# -------------------------------------------------------------------------------------------------- Parquet


@pytest.mark.parametrize("limit", ["MAX_ROW_GROUP_BYTES", "MAX_BATCH_BYTES"])
def test_a_parquet_bomb_stops_the_run_before_it_is_held_in_memory(
    limit: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    """A row group that states too much, and one that states little and turns out to be much."""
    monkeypatch.setattr(f"rid.resources.catalogs.{limit}", 2**20)
    (place / "in").mkdir()
    rows = pa.table({"path": [f"{i}.jpg" for i in range(64)], "content": [bytes(2**18)] * 64})
    dictionary = limit == "MAX_BATCH_BYTES"
    pq.write_table(rows, place / "in" / "a.parquet", compression="zstd", use_dictionary=dictionary)
    assert (place / "in" / "a.parquet").stat().st_size < 2**16
    request = request_for(place / "in", place / "out", place / "defender", target_kind="table")
    with pytest.raises(ValueError, match="are allowed"):
        run(request)
    assert not request.target.receipts.exists()


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(photo_bytes(7)) + 50] ^= 1
    file.write_bytes(bytes(data))


def test_a_damaged_page_stops_the_run_with_the_name_of_its_file(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rid.resources.bounded_run.FIRST_DELAY", 0.01)
    write_parquet(place / "in" / "a.parquet", 20)
    table = pq.read_table(place / "in" / "a.parquet")
    damaged = place / "in" / "b.parquet"
    pq.write_table(table, damaged, write_page_checksum=True, use_dictionary=False, compression="none")
    flip_a_bit(damaged)
    request = request_for(place / "in", place / "out", place / "defender", target_kind="table")
    with pytest.raises(ValueError, match=r"b\.parquet: row group 0 cannot be decoded .*CRC"):
        run(request)
    assert not request.target.receipts.exists()
    damaged.unlink()
    assert run(request).protected == 20


def test_a_page_that_is_damaged_after_the_plan_stops_the_run_too(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rid.resources.bounded_run.FIRST_DELAY", 0.01)
    table = write_parquet(place / "in" / "a.parquet", 20)
    file = place / "in" / "a.parquet"
    pq.write_table(table, file, write_page_checksum=True, use_dictionary=False, compression="none")

    class Damaging(Workers):
        def run(self, function, tasks, *, prefix, expected, **options):
            if prefix == "protect":
                flip_a_bit(file)
            yield from super().run(function, tasks, prefix=prefix, expected=expected, **options)

    request = request_for(place / "in", place / "out", place / "defender", target_kind="table")
    with pytest.raises(ValueError, match="cannot be decoded"), Damaging(HERE) as workers:
        run_drop(request, workers)
    assert not request.target.receipts.drops()


# --------------------------------------------------------------------------------------------- pickles, ONNX


def test_nothing_unpickles_what_it_did_not_write():
    """Torch reads its files under weights_only; numpy refuses pickles unless it is told otherwise."""
    calls = {"torch.load(": "weights_only=True"}
    never = ("allow_pickle=True", "pickle.load", "Unpickler(", "joblib", "yaml.load(", "marshal.load", "shelve.")
    for package in ("assets", "dagster_project", "models", "resources", "training"):
        for file in (ROOT / package).rglob("*.py"):
            for line in file.read_text(encoding="utf-8").splitlines():
                assert all(safe in line for call, safe in calls.items() if call in line), (file, line)
                assert not any(name in line for name in never), (file, line)


def test_a_pickle_in_the_place_of_a_network_is_not_read(place: Path):
    with pytest.raises(ValueError, match="cannot be opened"):
        OnnxEngine(pickle.dumps(Exploit(place / "trap")))
    assert not (place / "trap").exists()


def external(model: bytes, location: str, file: Path) -> bytes:
    """The model with the values of one tensor in another file."""
    import onnx

    proto = onnx.load_from_string(model)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == "pattern"]
    file.write_bytes(tensor.raw_data)
    values = {"location": location, "offset": "0", "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in values.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "../cwd/w.bin", "ABSOLUTE"])
def test_a_network_does_not_read_other_files(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    file = tmp_path / "cwd" / "w.bin"
    model = external(build_model(), location.replace("ABSOLUTE", str(file)), file)
    with pytest.raises(ValueError, match="cannot be opened"):
        OnnxEngine(model)


def test_a_network_with_operators_of_its_own_is_refused():
    import onnx

    proto = onnx.load_from_string(build_model())
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Run", "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(ValueError, match="cannot be opened"):
        OnnxEngine(proto.SerializeToString())


# ------------------------------------------------------------------------------------------ secrets and names


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize(
    "source",
    ["s3://rid-key:very-secret@bucket/photos", "s3://bucket-that-is-not-there/photos", "http://user:very-secret@host/"],
)
def test_errors_hold_no_secrets(source: str, debug: str, place: Path, s3: S3Server):
    more = {"AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_ACCESS_KEY_ID": "rid-key", "RID_DEBUG": debug}
    code, out, err = protect(place, source, "out", workers=0, **more)
    assert (out, code) == ({}, 5) or code == 1
    assert "very-secret" not in err and SECRET not in err
    assert debug == "1" or one_sentence(err)


@pytest.mark.slow
def test_logs_and_events_name_no_person(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Photos named after a person fail in every way, on workers and in Dagster; neither log holds the name."""
    from dagster import DagsterInstance, materialize

    from rid.assets.drop_chain import drop_chain
    from rid.assets.partitions import DROPS
    from rid.resources.dask_cluster import DaskCluster
    from rid.resources.places import Places

    folder = place / "source" / "monday"
    write_photos(folder, 4)
    acts = {"kill": "kill", "hang": "hang", "fail": "fail"}
    for act in acts:
        (folder / f"{HIDDEN}-{act}.jpg").write_bytes(photo_bytes(1))
    (folder / f"{HIDDEN}-cut.jpg").write_bytes(photo_bytes(1)[:300])
    (folder / f"{HIDDEN}-text.png").write_text(HIDDEN)
    (folder / f"{HIDDEN}\n.jpg").write_bytes(photo_bytes(1))
    poison(place, monkeypatch, {f"{HIDDEN}-{act}.jpg": act for act in acts})
    policy = {"photo_seconds": 2, "max_quarantined_share": 1.0}
    (place / "policy.json").write_text(json.dumps(policy))
    code, out, err = protect(place, "source/monday", "out", "--policy", "policy.json", "--drop", "d")
    assert (code, sum(out["quarantined"].values())) == (3, 6), err
    assert "jane" not in err.lower() and "doe" not in err.lower(), err

    write_tiny_defender(place / "weights" / "default")
    (place / "dagster").mkdir()
    with DagsterInstance.local_temp(str(place / "dagster")) as instance:
        instance.add_dynamic_partitions(DROPS, ["monday"])
        places = Places(home=str(place / "home"), source=str(place / "source"), weights=str(place / "weights"))
        done = materialize(
            [drop_chain],
            selection=["photo_catalog", "protected_catalog"],
            partition_key="monday",
            resources={"places": places, "dask": DaskCluster(n_workers=2, use_gpus=False)},
            run_config={"ops": {"drop_chain": {"config": {"policy_json": json.dumps(policy)}}}},
            instance=instance,
        )
        assert done.success
        assert places.protected_table().read("monday", ["key"]).num_rows == 10
    logged = [file for file in (place / "dagster").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in logged) > 10_000
    for file in logged:
        assert HIDDEN.encode() not in file.read_bytes(), file

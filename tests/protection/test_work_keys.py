"""Work that is done stays done: work keys, and the rows of files that earlier versions wrote, are those of today.

A change of these keys makes every drop of every deployment be protected anew. If that is meant, raise CODE_EPOCH.
"""

import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_catalogs import HERE, request_for, run, write_parquet, write_photos

from rid.assets.catalog.index import index_source
from rid.assets.catalog.plan import DropCatalog, plan_shards, read_shard_rows, write_catalog
from rid.assets.protection.run import catalogue, drop_work, run_drop
from rid.assets.protection.shards.files import TargetKind
from rid.assets.protection.shards.work import ShardTask, ShardWork
from rid.assets.protection.work_salt import work_salt
from rid.models.policy import ProtectionPolicy
from rid.resources.bounded_run import task_key
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.defender_registry import DefenderEntry
from rid.resources.schemas import SIDECAR
from rid.resources.storage import Storage

DEFENDER = DefenderEntry("5" * 64, {}, "nowhere")
POLICY = ProtectionPolicy(data_mining="DMI-PROHIBITED", min_side=8)
FILES_KEY = "75bc767cd753e040bb8ad0a536e00f3be3f4397441b200f57bd8a4608a6cc52b"
TABLE_KEY = "3bac1e02e3b385ae0629e042280b1bc2cdf8935f3bbe5e44ab2c950891b1dc0f"


def plain_tiff(side: int = 16) -> bytes:
    """An uncompressed grey TIFF: no codec's version changes it."""
    pixels = bytes(range(256))[: side * side]
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: side, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def catalog_of(folder: Path, *, sidecars: bool) -> DropCatalog:
    with Workers(HERE) as workers:
        index = index_source(Storage(str(folder / "in")), workers, policy=POLICY, sidecars=sidecars)
    return write_catalog(Storage(str(folder / "state")), "d", index, None)


def test_the_hand_made_photo_is_a_photo(tmp_path: Path) -> None:
    Storage(str(tmp_path / "in")).write_bytes("plain.tif", plain_tiff())
    (row,) = read_shard_rows(catalog_of(tmp_path, sidecars=False).url, 0)
    assert (row.format, row.width, row.height, row.reason) == ("TIFF", 16, 16, None)


def keys_of(catalog: DropCatalog, kind: TargetKind) -> list[str]:
    return [shard.work_key for shard in plan_shards(catalog, work_salt(DEFENDER, POLICY, 6, kind))]


def test_the_work_key_of_files_is_that_of_this_code_epoch(tmp_path: Path) -> None:
    source = Storage(str(tmp_path / "in"))
    source.write_bytes("a/plain.tif", plain_tiff())
    source.write_bytes("a/plain.xmp", b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    source.write_bytes("text.jpg", b"no picture")
    assert keys_of(catalog_of(tmp_path, sidecars=True), "files") == [FILES_KEY]


def test_the_work_key_of_a_table_is_that_of_this_code_epoch(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [{"bytes": plain_tiff(), "path": "plain.tif"}, None, {"bytes": b"x", "path": None}],
            "label": pa.array([1, 2, None], pa.int64()),
            "caption": pa.array(["one", None, "three"], pa.large_string()),
            "boxes": pa.array([[[0.5, 1.0]], [], None], pa.list_(pa.list_(pa.float32()))),
        }
    )
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    assert keys_of(catalog_of(tmp_path, sidecars=False), "table") == [TABLE_KEY]


class Unstarted(Workers):
    """Workers that must not be needed."""

    def client(self, expected: int = 1) -> None:
        raise AssertionError("workers were started")


@pytest.mark.parametrize("kind", ["files", "table"])
def test_a_drop_that_was_written_without_typed_rows_is_finished(tmp_path: Path, kind: TargetKind) -> None:
    """Its shard file is written here from plain values, as the first versions wrote it."""
    if kind == "files":
        write_photos(tmp_path / "in", 5)
        (tmp_path / "in" / "p002.xmp").write_text("<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    else:
        write_parquet(tmp_path / "in" / "a.parquet", 5)
    request = request_for(tmp_path / "in", tmp_path / "out", tmp_path / "defender", target_kind=kind)
    first = run(request)
    table = request.target.receipts
    (shard,) = table.live_files("d1").values()
    file = Path(table.url) / shard.path
    values = pq.ParquetFile(file).read()
    schema = plain_schema(kind).with_metadata(values.schema.metadata)
    assert values.schema.names == schema.names, "the columns are those of earlier versions"
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "row_group_size": 64}
    statistics = ["key", "status", "reason", "output_sha256", "input_sha256"]
    pq.write_table(
        pa.Table.from_pylist(values.to_pylist(), schema=schema),
        tmp_path / "old",
        write_statistics=statistics,
        **options,
    )
    assert (tmp_path / "old").read_bytes() == file.read_bytes()
    before = file.stat().st_mtime_ns
    with Unstarted(WorkerSettings()) as workers:
        again = run_drop(request, workers)
    assert (again.protected, again.shards_written, again.committed) == (first.protected, 0, False)
    assert file.stat().st_mtime_ns == before


NEW = ("smooth_levels", "visible_share")  # since 2026-11-26


def plain_schema(kind: TargetKind) -> pa.Schema:
    """A shard file's columns, spelled out."""
    text = ("key", "status", "reason", "detail")
    columns: list[tuple[str, pa.DataType]] = [(name, pa.string()) for name in text]
    columns += [("flags", pa.list_(pa.string())), ("source_uri", pa.string()), ("output_path", pa.string())]
    columns += [("format", pa.string()), ("bytes_in", pa.int64()), ("bytes_out", pa.int64())]
    digests = ("input_sha256", "output_sha256", "pixels_sha256", "work_key", "defender_digest", "policy_digest")
    columns += [(name, pa.string()) for name in (*digests, "engine")]
    columns += [("budget_levels", pa.int32()), ("linf_levels", pa.int32())]
    columns += [(name, pa.float32()) for name in ("survival_gain", "survival_cosine", "psnr", "ssim", *NEW)]
    columns += [("sidecars", pa.list_(SIDECAR))]
    required = {"key", "status", "source_uri", "bytes_in", *digests[3:], "engine", "budget_levels"}
    photo = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = [("image", photo), ("caption", pa.string()), ("label", pa.int64())]
    return pa.schema(
        [pa.field(name, of) for name, of in (table if kind == "table" else [])]
        + [pa.field(name, of, nullable=name not in required) for name, of in columns]
    )


def tasks_of(folder: Path) -> Sequence[ShardTask]:
    write_parquet(folder / "in" / "a.parquet", 3)
    request = request_for(folder / "in", folder / "out", folder / "defender", target_kind="table", policy=POLICY)
    with Workers(HERE) as workers:
        catalog = catalogue(request, workers)
    drop = drop_work(request, catalog, guarded=True)
    return [ShardTask(drop, ShardWork(shard), known=(1,)) for shard in plan_shards(catalog, request.salt())]


def test_a_task_is_small_and_brings_no_torch_to_a_worker(tmp_path: Path) -> None:
    (task,) = tasks_of(tmp_path)
    data = pickle.dumps(task)
    assert len(data) < 4096
    assert pickle.loads(data) == task
    (tmp_path / "task").write_bytes(data)
    program = (
        "import pickle, sys; from pathlib import Path\n"
        f"task = pickle.loads(Path({str(tmp_path / 'task')!r}).read_bytes())\n"
        "from rid.resources.bounded_run import task_key\n"
        "print(task_key('protect', task)); print(*sorted({'torch', 'dagster', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [task_key("protect", task), ""], "equal tasks have equal keys in any process"


def test_what_decides_a_shard_decides_the_key_of_its_task(tmp_path: Path) -> None:
    (task,) = tasks_of(tmp_path)
    others = [
        replace(task, known=()),
        replace(task, killed=(0,)),
        replace(task, work=replace(task.work, again=True)),
        replace(task, drop=replace(task.drop, policy=replace(POLICY, min_side=9))),
        replace(task, drop=replace(task.drop, budget_levels=5)),
        replace(task, drop=replace(task.drop, target=Storage(str(tmp_path / "other")))),
    ]
    assert len({task_key("protect", one) for one in (task, *others)}) == 1 + len(others)

import datetime
import decimal
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from rid.resources.catalogs import (
    CHUNK_ROWS,
    ParquetDamaged,
    iter_rows,
    list_source,
    open_parquet,
    parquet_layout,
    stored_photos,
)
from rid.resources.commits import ProtectedTable, ShardFile, shard_path
from rid.resources.schemas import IMAGE, RECEIPTS
from rid.resources.storage import Storage


def image_table(count: int = 3) -> pa.Table:
    images = [{"bytes": bytes([i]) * 10, "path": f"{i}.jpg"} for i in range(count)]
    features = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
    return pa.table({"image": pa.array(images, IMAGE), "label": range(count)}).replace_schema_metadata(
        {"huggingface": features, "other": "x"}
    )


def put(url: str, name: str, table: pa.Table, **options: object) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    Storage(url).write_bytes(name, sink.getvalue().to_pybytes())


def test_a_folder_of_photos(place: str) -> None:
    store = Storage(place)
    for name in ["b.JPG", "sub/a.png", "raw.nef", "notes.txt", "noname", "_rid/x.jpg", ".thumbs/y.jpg", "sub/.z.jpg"]:
        store.write_bytes(name, b"x")
    listing = list_source(Storage(place))
    assert listing.kind == "files"
    assert sorted(entry.path for entry in listing.files) == ["b.JPG", "raw.nef", "sub/a.png"]
    assert listing.ignored == 2


def test_a_folder_of_parquet_and_a_single_file(place: str) -> None:
    for name in ("part-0.parquet", "part-1.parquet"):
        put(place, name, image_table())
    Storage(place).write_bytes("_SUCCESS", b"")
    folder = list_source(Storage(place))
    assert (folder.kind, len(folder.files)) == ("parquet", 2)
    single = list_source(Storage(f"{place}/part-0.parquet"))
    assert single.base == Storage(place)
    assert single.files == [entry for entry in folder.files if entry.path == "part-0.parquet"]
    assert single.layout == folder.layout


def test_mixed_folders_are_refused(place: str) -> None:
    put(place, "a.parquet", image_table())
    Storage(place).write_bytes("b.jpg", b"x")
    with pytest.raises(ValueError, match="1 image files and 1 Parquet files: give them as two drops"):
        list_source(Storage(place))


def test_nothing_is_an_error(place: str) -> None:
    for url in (place, f"{place}/x.parquet", f"{place}/x.jpg"):
        with pytest.raises(FileNotFoundError, match="there is no"):
            list_source(Storage(url))


def test_files_of_different_columns_are_refused(place: str) -> None:
    put(place, "a.parquet", image_table())
    put(place, "b.parquet", image_table().append_column("more", pa.array([1, 2, 3])))
    with pytest.raises(ValueError, match=r"b\.parquet and a\.parquet have different columns"):
        list_source(Storage(place))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all" * 100])
def test_a_broken_parquet_file_is_named(place: str, data: bytes) -> None:
    Storage(place).write_bytes("broken.parquet", data)
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read as Parquet"):
        list_source(Storage(place))


def test_layouts() -> None:
    image = parquet_layout(image_table().schema)
    assert (image.kind, image.passthrough.names) == ("image", ["label"])
    assert list(image.metadata) == [b"huggingface"]
    spark = pa.schema(
        [
            ("path", pa.string()),
            ("modificationTime", pa.timestamp("us")),
            ("length", pa.int64()),
            ("content", pa.binary()),
        ]
    )
    content = parquet_layout(spark)
    assert (content.kind, content.passthrough.names) == ("content", ["modificationTime", "length"])
    uri = parquet_layout(pa.schema([("uri", pa.string()), ("n", pa.int8())]))
    assert (uri.kind, uri.passthrough.names) == ("uri", ["n"])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (pa.schema([("label", pa.int64())]), "no photo column among label"),
        (pa.schema([("image", pa.struct([("path", pa.string())]))]), "struct without binary 'bytes'"),
        (pa.schema([("image", pa.struct([("bytes", pa.string())]))]), "struct without binary 'bytes'"),
        (pa.schema([("path", pa.string()), ("content", pa.string())]), "string and binary"),
        (pa.schema([("uri", pa.int64())]), "column 'uri' has type int64"),
        (pa.schema([("uri", pa.string()), ("image", pa.string())]), "'image' clashes"),
        (pa.schema([("uri", pa.string()), ("a", pa.int8()), ("A", pa.int8())]), "'A' has no name of its own"),
        (pa.schema([("uri", pa.string()), ("", pa.int8())]), "'' has no name of its own"),
        (pa.schema([("uri", pa.string()), ("Status", pa.string())]), "'Status' clashes"),
        *[(pa.schema([("uri", pa.string()), (name, pa.string())]), f"'{name}' clashes") for name in RECEIPTS.names],
    ],
)
def test_columns_that_cannot_be_are_named(schema: pa.Schema, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parquet_layout(schema)


UTC = datetime.UTC
MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000)
KEPT = [
    (pa.bool_(), [True, None]),
    (pa.int8(), [-128, 127]),
    (pa.int16(), [-(2**15), 2**15 - 1]),
    (pa.int32(), [2**31 - 1]),
    (pa.int64(), [2**63 - 1]),
    (pa.float32(), [1.5, float("inf")]),
    (pa.float64(), [0.1]),
    (pa.string(), ["a", "日本", None]),
    (pa.large_string(), ["a"]),
    (pa.string_view(), ["a"]),
    (pa.binary(), [b"\x00\xff"]),
    (pa.large_binary(), [b"a"]),
    (pa.date32(), [MOMENT.date()]),
    (pa.timestamp("ms"), [MOMENT]),
    (pa.timestamp("us"), [MOMENT.replace(microsecond=1)]),
    (pa.timestamp("us", "UTC"), [MOMENT.replace(tzinfo=UTC)]),
    (pa.decimal128(10, 2), [decimal.Decimal("1.25")]),
    (pa.list_(pa.list_(pa.string())), [[["a"], []], None]),
    (pa.large_list(pa.int32()), [[1]]),
    (pa.struct([("a", pa.int32()), ("b", pa.list_(pa.float32()))]), [{"a": 1, "b": [0.5]}]),
    (pa.map_(pa.string(), pa.int32()), [[("a", 1)]]),
    (pa.dictionary(pa.int32(), pa.string()), ["a", "b", "a"]),
]


@pytest.mark.parametrize(("kind", "values"), KEPT, ids=lambda case: str(case)[:30])
def test_allowed_types_come_back_from_the_table(kind: pa.DataType, values: list[object], tmp_path: Path) -> None:
    column = pa.array(values, kind)
    source = pa.table({"uri": ["u"] * len(values), "extra": column})
    pq.write_table(source, tmp_path / "source.parquet")
    with (tmp_path / "source.parquet").open("rb") as file:
        parquet = open_parquet(file)
        passthrough = parquet_layout(parquet.schema_arrow).passthrough
        rows = parquet.read(columns=["extra"])
    target = str(tmp_path / "table")
    put(target, shard_path("d", "w"), rows)
    size = Storage(target).size(shard_path("d", "w"))
    schema = passthrough.append(pa.field("drop", pa.string()))
    ProtectedTable(Storage(target)).commit_drop(
        "d", [ShardFile(shard_path("d", "w"), size or 0, len(values))], schema, {}
    )
    assert DeltaTable(target).to_pyarrow_table().column("extra").to_pylist() == column.to_pylist()


REFUSED = [
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.binary(4),
    pa.date64(),
    pa.time32("ms"),
    pa.time64("us"),
    pa.duration("s"),
    pa.timestamp("s"),
    pa.timestamp("ns"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.decimal256(40, 2),
    pa.decimal128(10, -2),
    pa.list_(pa.int32(), 3),
    pa.null(),
    pa.list_(pa.uint8()),
    pa.struct([("a", pa.float16())]),
    pa.map_(pa.string(), pa.uint8()),
    pa.dictionary(pa.int32(), pa.int64()),
    pa.month_day_nano_interval(),
]


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_types_that_would_change_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match=r"column 'extra' has type .* cast it to"):
        parquet_layout(pa.schema([("uri", pa.string()), ("extra", kind)]))


def test_rows_come_in_batches_with_their_columns(tmp_path: Path) -> None:
    count = CHUNK_ROWS * 2 + 3
    table = image_table(count).append_column("caption", pa.array([f"c{i}" for i in range(count)]))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=count)
    with (tmp_path / "a.parquet").open("rb") as file:
        parquet = open_parquet(file)
        layout = parquet_layout(parquet.schema_arrow)
        names = layout.photo_columns + layout.passthrough.names
        batches = list(iter_rows(parquet, 0, names))
    photos, first = [], 0
    for batch in batches:
        photos += stored_photos(batch, layout, first)
        first += batch.num_rows
    assert [photo.position for photo in photos] == list(range(count))
    assert [photo.data for photo in photos] == [row["bytes"] for row in table.column("image").to_pylist()]
    assert [name for batch in batches for name in batch.column("caption").to_pylist()] == [
        f"c{i}" for i in range(count)
    ]


def test_rows_without_a_photo_or_a_name() -> None:
    layout = parquet_layout(pa.schema([("image", IMAGE)]))
    images = [None, {"bytes": None, "path": "a.jpg"}, {"bytes": b"x", "path": None}, {"bytes": b"", "path": "b"}]
    batch = pa.record_batch({"image": pa.array(images, IMAGE)})
    found = [(photo.name, photo.data) for photo in stored_photos(batch, layout, 0)]
    assert found == [(None, None), ("a.jpg", None), (None, b"x"), ("b", b"")]
    late = [photo.data for photo in stored_photos(batch.slice(2), layout, 2)]
    assert late == [b"x", b""]
    bare = pa.struct([("bytes", pa.binary())])
    batch = pa.record_batch({"image": pa.array([{"bytes": b"x"}], bare)})
    assert [photo.name for photo in stored_photos(batch, parquet_layout(batch.schema), 0)] == [None]


def test_sparks_timestamps_are_carried(tmp_path: Path) -> None:
    table = pa.table({"path": ["a"], "modificationTime": pa.array([MOMENT], pa.timestamp("us")), "content": [b"x"]})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    layout = list_source(Storage(str(tmp_path))).layout
    assert layout is not None and layout.passthrough.field("modificationTime").type == pa.timestamp("us")


def test_a_row_group_that_states_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rid.resources.catalogs.MAX_ROW_GROUP_BYTES", 2**20)
    put(str(tmp_path), "bomb.parquet", pa.table({"content": [b"\0" * 2**21], "path": ["a"]}), compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 2000
    with (tmp_path / "bomb.parquet").open("rb") as file, pytest.raises(ValueError, match="row group 0 decodes to"):
        next(iter_rows(open_parquet(file), 0, ["content"]))


def test_a_row_group_that_turns_out_to_be_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary page states one value; the rows repeat it."""
    monkeypatch.setattr("rid.resources.catalogs.MAX_BATCH_BYTES", 2**20)
    put(str(tmp_path), "bomb.parquet", pa.table({"content": [b"\0" * 2**18] * 64, "path": ["a"] * 64}))
    with (tmp_path / "bomb.parquet").open("rb") as file, pytest.raises(ValueError, match="are allowed"):
        next(iter_rows(open_parquet(file), 0, ["content"]))


def test_a_flipped_byte_in_a_page_is_found(tmp_path: Path) -> None:
    photo = os.urandom(50_000)
    table = pa.table({"path": ["a"], "content": [photo]})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", write_page_checksum=True, use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[data.index(photo[:100]) + 50] ^= 1
    (tmp_path / "a.parquet").write_bytes(data)
    with (tmp_path / "a.parquet").open("rb") as file, pytest.raises(ParquetDamaged, match="CRC"):
        next(iter_rows(open_parquet(file), 0, ["content"]))

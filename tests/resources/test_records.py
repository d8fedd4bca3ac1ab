"""Typed rows have the columns of the schemas, and come out of Arrow as they went in."""

import types
import typing
from dataclasses import dataclass, fields

import pyarrow as pa
import pytest

from rid.assets.catalog import index, sidecars
from rid.assets.custody import shard_verification, traces, verification
from rid.assets.protection import known_photos, published_names, state
from rid.assets.protection.shards import carried_rows
from rid.assets.reports import pairs
from rid.resources.records import (
    CatalogRow,
    Receipt,
    SidecarReceipt,
    SourceSidecar,
    columns_of,
    read_records,
    sidecar_receipts,
    to_arrow,
)
from rid.resources.schemas import CATALOG, RECEIPTS

PLAIN = {pa.string(): str, pa.int32(): int, pa.int64(): int, pa.float32(): float}
PARTS = [
    (index._KnownPhoto, CATALOG),
    (sidecars._NamedPhoto, CATALOG),
    (carried_rows._EarlierRow, RECEIPTS),
    (carried_rows.PublishedRow, RECEIPTS),
    (known_photos._PublishedRow, RECEIPTS),
    (pairs._PublishedRow, RECEIPTS),
    (published_names._NamedRow, RECEIPTS),
    (shard_verification._Key, RECEIPTS),
    (shard_verification._LookRow, RECEIPTS),
    (state._CommittedRow, RECEIPTS),
    (traces._NamedRow, RECEIPTS),
    (verification._CheckedRow, RECEIPTS),
]

ROW = CatalogRow(
    key="a/b.jpg",
    source_uri="s3://photos/a/b.jpg",
    identity="7-x",
    bytes_in=7,
    input_sha256="0" * 64,
    format="JPEG",
    width=3,
    height=2,
    sidecars=(SourceSidecar("a/b.xmp", "1" * 64), SourceSidecar("a/b.jpg.xmp", None)),
)
RECEIPT = Receipt(
    key="a/b.jpg",
    drop="d1",
    status="protected",
    flags=("saturated", "size_ratio:1.2"),
    source_uri="s3://photos/a/b.jpg",
    bytes_in=7,
    work_key="2" * 64,
    defender_digest="3" * 64,
    policy_digest="4" * 64,
    engine="onnx",
    budget_levels=6,
    psnr=40.5,
    sidecars=(SidecarReceipt("a/b.xmp", 12, "1" * 64),),
)


@dataclass(frozen=True)
class _OnlySidecars:
    sidecars: tuple[SidecarReceipt, ...] = sidecar_receipts()


def assert_fits(kind: type, schema: pa.Schema) -> None:
    """Each field is a column of its type, and may be None if and only if the column may be null."""
    hints = typing.get_type_hints(kind)
    for one in fields(kind):
        column, hint = schema.field(one.name), hints[one.name]
        optional = isinstance(hint, types.UnionType)
        if pa.types.is_list(column.type):
            assert one.default == (), one.name
            (item, _) = typing.get_args(hint)
            if item is str:
                assert column.type.value_type == pa.string()
            else:
                assert one.metadata["record"] is item
                struct = column.type.value_type
                assert [part.name for part in fields(item)] == [struct.field(i).name for i in range(struct.num_fields)]
            continue
        assert optional == column.nullable, one.name
        plain = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
        assert plain is PLAIN[column.type], one.name


@pytest.mark.parametrize(("kind", "schema"), [(CatalogRow, CATALOG), (Receipt, RECEIPTS)])
def test_a_row_has_the_columns_of_its_schema_in_their_order(kind: type, schema: pa.Schema) -> None:
    assert list(columns_of(kind)) == schema.names
    assert_fits(kind, schema)


@pytest.mark.parametrize(("kind", "schema"), PARTS)
def test_what_reads_a_few_columns_reads_those_of_the_schema(kind: type, schema: pa.Schema) -> None:
    assert_fits(kind, schema)


@pytest.mark.parametrize(("record", "schema"), [(ROW, CATALOG), (RECEIPT, RECEIPTS)])
def test_records_come_out_of_arrow_as_they_went_in(record: CatalogRow | Receipt, schema: pa.Schema) -> None:
    bare = type(record)(**{name: getattr(record, name) for name in columns_of(type(record)) if name != "sidecars"})
    table = to_arrow([record, bare], schema)
    assert table.schema == schema
    table.validate(full=True)
    assert list(read_records(type(record), table)) == [record, bare]
    assert list(read_records(type(record), table.to_batches()[0].slice(1))) == [bare]
    assert table.column("sidecars").null_count == 1, "no sidecars are null, as they always were"


def test_rows_of_many_slices_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rid.resources.records.SLICE", 3)
    table = to_arrow([RECEIPT] * 2, RECEIPTS).take(pa.array([0, 1] * 5))
    table = table.set_column(0, RECEIPTS.field("key"), pa.array([str(i) for i in range(10)]))
    assert [row.key for row in read_records(Receipt, table)] == [str(i) for i in range(10)]


def test_columns_that_an_earlier_version_did_not_write_have_their_defaults() -> None:
    older = to_arrow([RECEIPT], RECEIPTS).drop_columns(["sidecars", "pixels_sha256", "drop"])
    (row,) = read_records(Receipt, older, drop="monday")
    assert (row.sidecars, row.pixels_sha256, row.drop, row.psnr) == ((), None, "monday", 40.5)
    with pytest.raises(ValueError, match="no column 'drop'; they have key, status"):
        list(read_records(Receipt, older))
    assert list(read_records(_OnlySidecars, older)) == [_OnlySidecars()], "a row without a known column is a row"

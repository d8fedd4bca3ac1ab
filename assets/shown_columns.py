"""The columns of the catalog and of the protected table as Dagster shows them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from dagster import TableColumn, TableColumnConstraints, TableSchema

from rid.resources.schemas import CATALOG, IMAGE, RECEIPTS

COLUMN_SCHEMA = "dagster/column_schema"

MEANINGS: Mapping[str, str] = {
    "key": "The photo's name: its path in the drop, or what its Parquet row calls it.",
    "source_uri": "The photo's file, or the Parquet file that holds it.",
    "row_group": "Row group in that Parquet file.",
    "row_in_group": "Row in that row group.",
    "identity": "Size and ETag or modification time of that file.",
    "bytes_in": "Bytes of the original.",
    "input_sha256": "sha256 of the original; null if it could not be read.",
    "columns_sha256": "Digest of the row's pass-through columns.",
    "format": "JPEG, PNG, WEBP or TIFF.",
    "width": "Stored width in pixels.",
    "height": "Stored height in pixels.",
    "mark": "Digest of pixels that a mark in the original names; null without a mark.",
    "sidecars": "XMP files that go along with the photo.",
    "reason": "Why the photo was skipped or quarantined.",
    "detail": "The same in a sentence.",
    "image": "The protected photo and its name; null if it is quarantined.",
    "drop": "The set of photos that it came with.",
    "status": "protected, skipped (published unchanged) or quarantined (held back).",
    "flags": "What was done beside the protection.",
    "output_path": "For folder targets: the file.",
    "bytes_out": "Bytes of the protected photo.",
    "output_sha256": "sha256 of the protected photo.",
    "pixels_sha256": "sha256 of the protected photo's decoded pixels, where it holds a mark.",
    "work_key": "Digest of the shard's photos and of what was done to them.",
    "defender_digest": "The defender.",
    "policy_digest": "The policy.",
    "engine": "Runtime, provider and precision that computed the perturbation.",
    "budget_levels": "The budget, in 8-bit levels.",
    "linf_levels": "Largest change of a value before encoding, in 8-bit levels.",
    "survival_gain": "Share of the perturbation that is left after encoding.",
    "survival_cosine": "Cosine of the decoded and the intended perturbation.",
    "psnr": "dB, of the decoded output against the decoded input.",
    "ssim": "The same on luma at short side 256.",
    "smooth_levels": "Low-passed change of the worst smooth area, in 8-bit levels.",
    "visible_share": "Share of the smooth area, such as sky and skin, where the change is seen.",
}


def table_schema(schema: pa.Schema) -> TableSchema:
    """Returns a schema as Dagster shows it; columns of the source have no description here."""
    return TableSchema(
        columns=[
            TableColumn(
                name=column.name,
                type=str(column.type),
                description=MEANINGS.get(column.name),
                constraints=TableColumnConstraints(nullable=column.nullable),
            )
            for column in schema
        ]
    )


CATALOG_COLUMNS = table_schema(CATALOG)
PROTECTED_COLUMNS = table_schema(pa.schema([pa.field("image", IMAGE), *RECEIPTS]))

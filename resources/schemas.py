"""The schemas that every stage shares: the catalog of a drop, and the receipts of its protection.

A *drop* is one new set of photos. Its *catalog* has one row a photo: where it lies, what it is, its sha256. Its
*receipts* have one row a photo too: what became of it. Every input row ends in exactly one terminal `Status`.
"""

from __future__ import annotations

import re
from enum import StrEnum

import pyarrow as pa

DROP_NAME = re.compile(r"^[A-Za-z0-9._=-]{1,120}$")
SIDECAR_SUFFIX = ".xmp"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff")
UNSUPPORTED_SUFFIXES = (
    ".heic",
    ".heif",
    ".avif",
    ".gif",
    ".bmp",
    ".jp2",
    ".jxl",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
)


class Status(StrEnum):
    """The end of a photo: published protected, published unchanged, or held back."""

    PROTECTED = "protected"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class Reason(StrEnum):
    """Reasons why a photo was skipped or quarantined; the codes are stable."""

    ALREADY_PROTECTED = "already_protected"
    ANIMATED = "animated"
    DEADLINE = "deadline"
    DECODE_ERROR = "decode_error"
    EMPTY = "empty"
    FORMAT_MISMATCH = "format_mismatch"
    INTERNAL_ERROR = "internal_error"
    NAME_COLLISION = "name_collision"
    OUT_OF_MEMORY = "out_of_memory"
    PROTECTION_LOST_IN_ENCODING = "protection_lost_in_encoding"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"
    UNSAFE_NAME = "unsafe_name"
    UNSUPPORTED_BIT_DEPTH = "unsupported_bit_depth"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_MODE = "unsupported_mode"
    URI_NOT_ALLOWED = "uri_not_allowed"
    WORKER_KILLED = "worker_killed"


CATALOG = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),  # the photo's file, or the Parquet file that holds it
        pa.field("row_group", pa.int32()),  # null for a photo in a file of its own
        pa.field("row_in_group", pa.int32()),
        pa.field("identity", pa.string(), nullable=False),  # size and ETag or mtime of the file at source_uri
        pa.field("bytes_in", pa.int64(), nullable=False),
        pa.field("input_sha256", pa.string()),  # null if the photo could not be read
        pa.field("columns_sha256", pa.string()),  # digest of the row's pass-through columns; null if there are none
        pa.field("format", pa.string()),  # JPEG, PNG, WEBP, TIFF, ...; null if unknown
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mark", pa.string()),  # the digest of pixels that a mark in the photo names; null without a mark
        pa.field("sidecars", pa.list_(pa.struct([("path", pa.string()), ("sha256", pa.string())]))),  # beside the photo
        pa.field("reason", pa.string()),  # a quarantine reason that the header already gives
        pa.field("detail", pa.string()),
    ]
)

SIDECAR = pa.struct([pa.field("path", pa.string()), pa.field("bytes", pa.int64()), pa.field("sha256", pa.string())])

RECEIPTS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("drop", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("flags", pa.list_(pa.string())),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("output_path", pa.string()),  # folder targets: the file, relative to the target
        pa.field("format", pa.string()),
        pa.field("bytes_in", pa.int64(), nullable=False),
        pa.field("bytes_out", pa.int64()),
        pa.field("input_sha256", pa.string()),
        pa.field("output_sha256", pa.string()),
        pa.field("pixels_sha256", pa.string()),  # of the decoded output, where it holds a mark
        pa.field("work_key", pa.string(), nullable=False),
        pa.field("defender_digest", pa.string(), nullable=False),
        pa.field("policy_digest", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("budget_levels", pa.int32(), nullable=False),
        pa.field("linf_levels", pa.int32()),
        pa.field("survival_gain", pa.float32()),
        pa.field("survival_cosine", pa.float32()),
        pa.field("psnr", pa.float32()),  # dB, of the decoded output against the decoded input
        pa.field("ssim", pa.float32()),
        pa.field("smooth_levels", pa.float32()),  # low-passed change of the worst smooth area, before encoding
        pa.field("visible_share", pa.float32()),  # of the smooth area, where that is seen
        pa.field("sidecars", pa.list_(SIDECAR)),  # folder targets: XMP files that went along with the photo
    ]
)

PICTURES_COLUMN = "pictures_sha256"  # of a table: the pictures in protected columns beside the photo

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def check_drop_name(name: str) -> str:
    """Returns `name` if it may name a drop.

    Raises:
        ValueError: if it holds anything but letters, digits, `.`, `_`, `=`, `-`, is only dots, or is over 120 long.
    """
    if not DROP_NAME.match(name) or not name.strip("."):
        raise ValueError(
            f"drop name {name[:140]!r} is not allowed: 1 to 120 letters, digits, '.', '_', '=' or '-', not only dots"
        )
    return name

"""Captioned face photos as one uint8 array, small enough to stay in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps


@dataclass(frozen=True)
class CaptionedFaces:
    """Photos and their captions.

    Attributes:
        pixels: (N, side, side, 3) uint8.
        captions: N prompts; a photo without age and gender has "photo of a person".
    """

    pixels: np.ndarray
    captions: list[str]


def caption(age: int | None, gender: str | None) -> str:
    """Returns the training prompt of one photo; children are boys and girls."""
    if age is None or gender is None:
        return "photo of a person"
    noun = {"man": "boy", "woman": "girl"}.get(gender, gender) if age < 15 else gender
    return f"photo of a {age} year old {noun}"


def load_faces(files: list[Path], side: int) -> CaptionedFaces:
    """Reads Parquet files in the Hugging Face `Image` convention, row group by row group.

    Args:
        files: Parquet files with `image: struct<bytes, path>` and optionally `age` and `gender`.
        side: the square side in pixels that every photo's centre square is resized to.
    """
    pixels: list[np.ndarray] = []
    captions: list[str] = []
    for file in files:
        for row in _rows(file):
            pixels.append(_centre_square(row["image"]["bytes"], side))
            captions.append(caption(row.get("age"), row.get("gender")))
    return CaptionedFaces(np.stack(pixels), captions)


def load_column(files: list[Path], name: str) -> list[str]:
    """Returns a column's values as text, in the order in which `load_faces` returns the photos; each null is another.

    Raises:
        ValueError: if a file has no such column.
    """
    values: list[str] = []
    for file in files:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        if name not in parquet.schema_arrow.names:
            raise ValueError(f"{file} has no column {name!r}: it has {', '.join(parquet.schema_arrow.names)}")
        for index in range(parquet.metadata.num_row_groups):
            for value in parquet.read_row_group(index, columns=[name]).column(name).to_pylist():
                values.append(f"null {len(values)}" if value is None else str(value))
    return values


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    columns = [name for name in ("image", "age", "gender") if name in parquet.schema_arrow.names]
    for index in range(parquet.metadata.num_row_groups):
        yield from parquet.read_row_group(index, columns=columns).to_pylist()


def _centre_square(encoded: bytes, side: int) -> np.ndarray:
    """Decodes a photo upright and returns its centre square as (side, side, 3) uint8."""
    with Image.open(io.BytesIO(encoded)) as photo:
        photo.draft("RGB", (2 * side, 2 * side))
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.LANCZOS))

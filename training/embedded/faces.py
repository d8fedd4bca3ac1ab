"""Captioned face photos as one uint8 array, small enough to stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rid.models.upright_photos import centre_square, upright_rgb


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
    """Reads Parquet files in the Hugging Face `Image` convention, row group by row group, as serving reads photos.

    A photo that cannot be decoded is left out.

    Args:
        files: Parquet files with `image: struct<bytes, path>` and optionally `age` and `gender`.
        side: the square side in pixels that every photo's centre square is resized to.

    Raises:
        ValueError: if a file has no column `image`, or no photo can be decoded.
    """
    pixels: list[np.ndarray] = []
    captions: list[str] = []
    for file in files:
        for row in _rows(file):
            upright = upright_rgb(row["image"]["bytes"])
            if upright is not None:
                pixels.append(centre_square(upright, side))
                captions.append(caption(row.get("age"), row.get("gender")))
    if not pixels:
        raise ValueError(f"no photo can be decoded in {', '.join(map(str, files))}: give Parquet files of photos")
    return CaptionedFaces(np.stack(pixels), captions)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    if "image" not in parquet.schema_arrow.names:
        raise ValueError(f"{file} has no column 'image': it has {', '.join(parquet.schema_arrow.names)}")
    columns = [name for name in ("image", "age", "gender") if name in parquet.schema_arrow.names]
    for index in range(parquet.metadata.num_row_groups):
        yield from parquet.read_row_group(index, columns=columns).to_pylist()

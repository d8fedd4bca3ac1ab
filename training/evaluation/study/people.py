"""The people of a study: their photos as face squares, read from a Parquet file by person.

A square is cut around the largest face, so that it fills the small pictures of a small model, and photos without a face
are left out and counted. P people, N photos of one, S side.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rid.training.evaluation.judges.identity import Face, FaceEmbedder

FACE_MARGIN = 1.15  # side of the square over that of the detected face
RAISED = 0.05  # of the face's width: detectors leave the forehead out


@dataclass(frozen=True)
class Person:
    """One person's photos in a file.

    Attributes:
        name: value of the identity column.
        rows: row numbers, in file order.
    """

    name: str
    rows: tuple[int, ...]


def list_people(file: Path, column: str = "identity") -> list[Person]:
    """Returns the people of a file, sorted by name; no photo is read.

    Raises:
        ValueError: if the file has no such column, or no column of images.
    """
    parquet = pq.ParquetFile(file)
    names = parquet.schema_arrow.names
    for needed in (column, "image"):
        if needed not in names:
            raise ValueError(f"{file} has no column {needed!r}: it has {', '.join(names)}")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(parquet.read([column]).column(column).to_pylist()):
        if name is not None:
            rows.setdefault(str(name), []).append(row)
    return [Person(name, tuple(rows[name])) for name in sorted(rows)]


def read_squares(file: Path, person: Person, embedder: FaceEmbedder, side: int) -> NDArray[np.uint8]:
    """Returns (N, side, side, 3) face squares of a person's photos, without those that show no face."""
    squares = [face_square(pixels, embedder, side) for pixels in _photos(file, person.rows)]
    found = [square for square in squares if square is not None]
    return np.stack(found) if found else np.zeros((0, side, side, 3), np.uint8)


def face_square(pixels: NDArray[np.uint8], embedder: FaceEmbedder, side: int) -> NDArray[np.uint8] | None:
    """Cuts the square around the largest face of (H, W, 3) pixels, repeating the border where it reaches beyond."""
    face = embedder.face(pixels)
    return None if face is None else cut_square(pixels, face, side)


def cut_square(pixels: NDArray[np.uint8], face: Face, side: int) -> NDArray[np.uint8]:
    """Returns the (side, side, 3) square around a face."""
    half = face.width * FACE_MARGIN / 2
    x, y = face.x, face.y - RAISED * face.width
    left, right, top, bottom = (round(edge) for edge in (x - half, x + half, y - half, y + half))
    border = max(0, -left, -top, right - pixels.shape[1], bottom - pixels.shape[0])
    wide = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_REPLICATE)
    square = wide[top + border : bottom + border, left + border : right + border]
    shrinking = square.shape[0] >= side
    kind = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side, side), interpolation=kind), np.uint8)


def squares_digest(squares: NDArray[np.uint8]) -> str:
    """sha256 of squares."""
    return hashlib.sha256(repr(squares.shape).encode() + np.ascontiguousarray(squares).tobytes()).hexdigest()


def _photos(file: Path, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Decodes photos upright; row groups without one of them are not read."""
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    wanted, photos, start = set(rows), [], 0
    for index in range(parquet.metadata.num_row_groups):
        count = parquet.metadata.row_group(index).num_rows
        here = [row - start for row in range(start, start + count) if row in wanted]
        if here:
            images = parquet.read_row_group(index, columns=["image"]).column("image").take(here).to_pylist()
            for image in images:
                with Image.open(io.BytesIO(image["bytes"])) as photo:
                    photos.append(np.asarray(ImageOps.exif_transpose(photo).convert("RGB")))
        start += count
    return photos

"""Photo files of many kinds, made from photographs that scikit-image ships."""

import functools
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage import data

SHIPPED = ("astronaut", "chelsea", "coffee")


def shipped(name: str) -> np.ndarray:
    """Returns an (H, W, 3) photograph that scikit-image ships, without loading its own reader of pictures."""
    return _read(name).copy()


@functools.cache
def _read(name: str) -> np.ndarray:
    with Image.open(Path(data.__file__).parent / f"{name}.png") as picture:
        return np.array(picture)


def photograph(width: int = 300, height: int = 240, seed: int = 0) -> Image.Image:
    """Returns a seeded crop of a photograph at the given size."""
    source = shipped(SHIPPED[seed % 3])
    random = np.random.default_rng(seed)
    span = int(random.integers(150, 280))
    top, left = (int(random.integers(0, extent - span)) for extent in source.shape[:2])
    crop = source[top : top + span, left : left + span]
    return Image.fromarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Returns the file of an image."""
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 92, "subsampling": 2} if kind == "JPEG" else {}) | options)
    return out.getvalue()


def with_orientation(orientation: int, **kwargs: Any) -> bytes:
    """Returns a JPEG whose EXIF says how it is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return encoded(photograph(**kwargs), exif=exif)


def pixels_of(data: bytes) -> np.ndarray:
    """Decodes a file with Pillow, in stored orientation."""
    with Image.open(io.BytesIO(data)) as picture:
        if picture.format == "TIFF":
            picture.tag_v2.pop(274, None)
        return np.array(picture)

"""Output bytes change on purpose or not at all: a change of these digests asks for a higher CODE_EPOCH.

The defender is a fixed pattern and the photos have its working resolution, so that no arithmetic differs between
processors. `PYTHONPATH=. python tests/models/test_golden_bytes.py` prints the digests of the code as it is.
"""

import hashlib
import sys
import zlib

import cv2
import numpy as np
import PIL
import pytest
import simplejpeg
from odd_photos import encoded
from PIL import Image, features

from rid.assets.protection.shards.task import CODE_EPOCH
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector

SIDE = 96
CODECS = (
    f"pillow {PIL.__version__}, jpeg {features.version('libjpeg_turbo')}, webp {features.version('webp')}, "
    f"tiff {features.version('libtiff')}, zlib {zlib.ZLIB_RUNTIME_VERSION}, simplejpeg {simplejpeg.__version__}, "
    f"opencv {cv2.__version__}"
)
GOLDEN_CODECS = "pillow 13.0.0, jpeg 3.2.0, webp 1.6.0, tiff 4.7.2, zlib 1.2.13, simplejpeg 1.9.0, opencv 5.0.0"
GOLDEN_EPOCH = 2
GOLDEN = {
    "jpeg": "0968944d263522b6",
    "jpeg progressive": "7a6ab1dac705d9af",
    "jpeg grey": "bfed4eb3ca00e107",
    "png": "7ef049657455061d",
    "png alpha": "36be13d3da3cb79f",
    "webp": "2c5517b1819aea06",
    "webp lossy": "2677d40b6f0f6596",
    "tiff": "97070c9a64053568",
    "tiff lzw": "12983af9c3b2224c",
}


class Pattern:
    """A perturbation of blocks, of the given budget."""

    name = "pattern"
    working_resolution = SIDE
    multiple = 0

    def perturb(self, squares: np.ndarray, budget_levels: float) -> np.ndarray:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(3, SIDE // 8, SIDE // 8))
        blocks = np.kron(signs, np.ones((8, 8))).astype(np.float32)
        return np.broadcast_to(blocks * np.float32(budget_levels), squares.shape)


def inputs() -> dict[str, bytes]:
    """A photo of every kind: a smooth gradient with seeded noise."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    base = np.stack([rows * 2 + 20, columns * 2 + 10, 220 - rows - columns], axis=2)
    pixels = (base + np.random.default_rng(1).integers(-9, 10, base.shape)).clip(0, 255).astype(np.uint8)
    photo = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    options = {"exif": exif, "dpi": (300, 300)}
    return {
        "jpeg": encoded(photo, quality=90, **options),
        "jpeg progressive": encoded(photo, quality=75, subsampling=0, progressive=True, **options),
        "jpeg grey": encoded(photo.convert("L"), quality=85),
        "png": encoded(photo, "PNG", **options),
        "png alpha": encoded(Image.merge("RGBA", (*photo.split(), photo.convert("L"))), "PNG"),
        "webp": encoded(photo, "WEBP", lossless=True, exif=exif),
        "webp lossy": encoded(photo, "WEBP", quality=80),
        "tiff": encoded(photo, "TIFF", **options),
        "tiff lzw": encoded(photo, "TIFF", compression="tiff_lzw"),
    }


def digests() -> dict[str, str]:
    """The sha256 of input and output of every kind, in short."""
    protector = Protector(Pattern(), ProtectionPolicy(data_mining="DMI-PROHIBITED"), 6, "5" * 64)
    return {
        name: hashlib.sha256(data + b"|" + protector.protect(data, name).data).hexdigest()[:16]
        for name, data in inputs().items()
    }


def test_output_bytes_are_those_of_this_code_epoch() -> None:
    if CODECS != GOLDEN_CODECS:
        pytest.skip(f"the digests were taken with {GOLDEN_CODECS}; here is {CODECS}")
    assert CODE_EPOCH == GOLDEN_EPOCH, "CODE_EPOCH was raised: take the digests again"
    assert digests() == GOLDEN, "output bytes changed: if on purpose, raise CODE_EPOCH and take the digests again"


def test_output_bytes_are_the_same_on_repeat() -> None:
    assert digests() == digests()


if __name__ == "__main__":
    sys.stdout.write(f"{CODECS!r}\n{CODE_EPOCH}\n{digests()}\n")

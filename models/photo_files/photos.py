"""A photo as the rest of the system sees it: header, stored pixels, and the encoding to write it back.

A *stored* picture is what the file holds; the *upright* one is what a viewer shows after applying the EXIF
orientation tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

RefusalReason = Literal[
    "animated",
    "deadline",
    "decode_error",
    "empty",
    "format_mismatch",
    "out_of_memory",
    "protection_lost_in_encoding",
    "too_large",
    "too_many_pixels",
    "too_small",
    "truncated",
    "unsupported_bit_depth",
    "unsupported_format",
    "unsupported_mode",
    "worker_killed",
]

FLAGS = {
    "chroma_raised": "written with finer chroma, since the original's cannot be written or the protection needs it",
    "coding_changed": "an arithmetic-coded, interlaced or tiled file was written in the plain form of its format",
    "data_mining_left_out": "the policy's word on data mining is not in it, since its XMP packet is too long or cannot "
    "be read",
    "decoder_warning": "the decoder complained about the data, but delivered a whole picture",
    "format_mismatch": "the name's suffix is not the real format's; name and format were both kept",
    "grey_depth_converted": "greyscale of 2 or 4 bits a pixel was written with 8",
    "mark_left_out": "it holds no mark of its protection, since its XMP packet is too long or cannot be read",
    "mark_replaced": "it came with a mark that did not hold, or that no known receipt bears out",
    "mark_trusted": "skipped because the policy trusts marks; no known receipt bears its mark out",
    "metadata_damaged": "a metadata block could not be read and was left out",
    "metadata_dropped": "a metadata block that cannot be kept safely was left out",
    "palette_converted": "a palette picture was written as true colour",
    "quality_estimated": "the original's quality is not recorded in its file and was estimated",
    "quality_raised": "written at a higher quality than the original, since the protection needs it",
    "renditions_removed": "thumbnails or previews of the unprotected original were removed",
    "saturated": "much of the perturbation could not be stored, because pixels are already black or white",
    "sidecar_left_out": "an XMP file beside it did not go along: it cannot be read, or its name is taken or unsafe",
    "size_ratio": "followed by `:` and bytes out / bytes in, where chroma or quality was raised",
    "trailing_bytes_removed": "bytes after the end of the picture were removed",
    "transparency_converted": "a transparent colour was written as an alpha channel",
}


class PhotoRefused(Exception):
    """A photo that is quarantined instead of protected.

    Attributes:
        reason: a stable code, one of `rid.resources.schemas.Reason`.
        detail: one sentence for a person; never holds picture content.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RefusalReason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[PhotoRefused], tuple[RefusalReason, str]]:
        return PhotoRefused, (self.reason, self.detail)


@dataclass(frozen=True)
class PhotoHeader:
    """The header of a file, read before any pixel is decoded.

    Attributes:
        format: JPEG, PNG, WEBP or TIFF.
        width: stored width in pixels, before the orientation is applied.
        height: stored height in pixels.
        mode: L, LA, RGB, RGBA, or P for a palette.
        orientation: EXIF orientation 1 to 8; 1 if there is none.
        flags: keys of `FLAGS`.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int = 1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stronger:
    """An encoding that keeps more of a perturbation, and the flags that say how."""

    encoding: Encoding
    flags: tuple[str, ...]


class Encoding(Protocol):
    """The encoding of a photo: all that the original's file decides beside pixels and XMP packet."""

    @property
    def lossless(self) -> bool:
        """True if decoding `code(pixels)` gives exactly `pixels`."""

    @property
    def max_xmp(self) -> int:
        """Bytes of the longest XMP packet that the format holds."""

    def code(self, pixels: Pixels) -> bytes:
        """Returns a file with these pixels, coded like the original's, and no metadata."""

    def finish(self, coded: bytes, xmp: bytes) -> bytes:
        """Returns a coded file with the original's metadata and an XMP packet, which may be empty."""

    def stronger(self) -> Iterator[Stronger]:
        """Yields encodings of rising fidelity, none if there is none."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGBA uint8, in stored orientation
            and stored values: no colour conversion, no rotation.
        header: what the file says of itself.
        encoding: how to write it back.
        flags: keys of `FLAGS`, those of the header included.
        xmp: its XMP packet without pictures; empty if it has none.
        xmp_extension: XMP beyond the packet, which JPEG has room for and the encoding keeps.
    """

    pixels: Pixels
    header: PhotoHeader
    encoding: Encoding
    flags: tuple[str, ...] = ()
    xmp: bytes = b""
    xmp_extension: bytes = b""

    def write(self, pixels: Pixels) -> bytes:
        """Returns the photo's file with other pixels."""
        return self.encoding.finish(self.encoding.code(pixels), self.xmp)

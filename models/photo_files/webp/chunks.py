"""The chunks of a WebP file: read, and put around newly coded pixels.

RFC 9649: RIFF, whose extended form begins with a VP8X chunk that says which others there are.
"""

from __future__ import annotations

from rid.models.photo_files.photos import PhotoRefused

ICC_BIT, ALPHA_BIT, EXIF_BIT, XMP_BIT = 0x20, 0x10, 0x08, 0x04
MAX_CHUNKS = 1000  # a still picture has at most seven
PICTURE = (b"ALPH", b"VP8 ", b"VP8L")


def end_of(data: bytes) -> int:
    """Returns the end of the file by its RIFF header; chunks have even sizes."""
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2


def read_chunks(data: bytes) -> dict[bytes, bytes]:
    """Returns the first chunk of each kind.

    Raises:
        PhotoRefused: `decode_error` if there are more of them than any encoder writes.
    """
    chunks: dict[bytes, bytes] = {}
    at, end, count = 12, min(len(data), end_of(data)), 0
    while at + 8 <= end:
        count += 1
        if count > MAX_CHUNKS:
            raise PhotoRefused("decode_error", f"the WebP has more than {MAX_CHUNKS} chunks")
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return chunks


def with_metadata(coded: bytes, icc: bytes, exif: bytes, xmp: bytes) -> bytes:
    """Returns a still picture without metadata as one with it; without any, the same bytes."""
    chunks = read_chunks(coded)
    bits = ICC_BIT * bool(icc) | EXIF_BIT * bool(exif) | XMP_BIT * bool(xmp)
    if not bits:
        return coded
    width, height, alpha = _canvas(chunks)
    header = bytes((bits | ALPHA_BIT * alpha, 0, 0, 0)) + (width - 1).to_bytes(3, "little")
    parts = [(b"VP8X", header + (height - 1).to_bytes(3, "little")), (b"ICCP", icc)]
    parts += [(kind, chunks[kind]) for kind in PICTURE if kind in chunks]
    parts += [(b"EXIF", exif), (b"XMP ", xmp)]
    body = b"WEBP" + b"".join(_chunk(kind, data) for kind, data in parts if data)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _canvas(chunks: dict[bytes, bytes]) -> tuple[int, int, bool]:
    """Width, height and whether there is an alpha channel, as the coded picture says."""
    if b"VP8L" in chunks:
        bits = int.from_bytes(chunks[b"VP8L"][1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
    frame = chunks[b"VP8 "]
    width, height = (int.from_bytes(frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width, height, b"ALPH" in chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(4, "little") + data + b"\x00" * (len(data) % 2)

"""The chunks of a PNG file: read, chosen, and put in front of newly coded pixels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from models.metadata import CleanBlock, clean_exif, clean_text, clean_xmp, exif_with_orientation, holds_picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
ANIMATION = (b"acTL", b"fcTL", b"fdAT")
KEPT = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tIME", b"oFFs", b"pCAL", b"sCAL"}
KEPT_IF_UNCONVERTED = {b"sBIT", b"bKGD"}  # their layout depends on the colour type
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
XMP_KEYWORD = b"XML:com.adobe.xmp"
MAX_TEXT = 16 * 2**20  # bytes of an inflated text chunk


@dataclass(frozen=True)
class Chunk:
    """One chunk; `sound` says whether its checksum is right."""

    kind: bytes
    data: bytes
    sound: bool = True

    def to_bytes(self) -> bytes:
        """Returns length, type, data and checksum."""
        checksum = zlib.crc32(self.data, zlib.crc32(self.kind))
        return len(self.data).to_bytes(4, "big") + self.kind + self.data + checksum.to_bytes(4, "big")


@dataclass(frozen=True)
class Chunks:
    """The chunks of one file in order, and where the file ends after IEND; -1 if it stops before."""

    chunks: tuple[Chunk, ...]
    end: int

    def first(self, kind: bytes) -> bytes | None:
        """Returns the data of the first chunk of a kind, or None."""
        return next((chunk.data for chunk in self.chunks if chunk.kind == kind), None)


@dataclass(frozen=True)
class KeptChunks:
    """The chunks that go with the protected picture, and what had to be left out."""

    chunks: tuple[Chunk, ...]
    flags: tuple[str, ...]


def read_chunks(data: bytes, *, only_header: bool = False) -> Chunks:
    """Reads chunks up to IEND, or only the small ones without the pixel data."""
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + size
        if end > len(data):
            break
        if not (only_header and kind == b"IDAT"):
            body = data[at + 8 : end - 4]
            sound = zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(data[end - 4 : end], "big")
            chunks.append(Chunk(kind, body, sound))
        at = end
        if kind == b"IEND":
            return Chunks(tuple(chunks), at)
    return Chunks(tuple(chunks), -1)


def keep_chunks(chunks: tuple[Chunk, ...], *, converted: bool, orientation: int) -> KeptChunks:
    """Chooses the ancillary chunks to keep: colour, density, time, text and EXIF, without embedded pictures.

    Of unknown kinds those stay that the PNG specification calls safe to copy after the pixels have changed.
    """
    kept: list[Chunk] = []
    flags: list[str] = []
    for chunk in chunks:
        if chunk.kind in CRITICAL or chunk.kind == b"tRNS":
            continue
        if not chunk.sound:
            flags.append("metadata_damaged")
        elif chunk.kind in KEPT or (chunk.kind in KEPT_IF_UNCONVERTED and not converted):
            kept.append(chunk)
        elif chunk.kind == b"eXIf":
            block = clean_exif(chunk.data)
            exif = block.data or exif_with_orientation(orientation)
            kept += [Chunk(b"eXIf", exif)] if exif else []
            flags += block.flags
        elif chunk.kind in TEXTS:
            block = _clean_text_chunk(chunk)
            kept += [Chunk(chunk.kind, block.data)] if block.data else []
            flags += block.flags
        elif chunk.kind in KEPT_IF_UNCONVERTED or not chunk.kind[3] & 32 or holds_picture(chunk.data):
            flags.append("metadata_dropped")
        else:
            kept.append(chunk)
    return KeptChunks(tuple(kept), tuple(dict.fromkeys(flags)))


def _clean_text_chunk(chunk: Chunk) -> CleanBlock:
    """Cleans a text chunk; an unchanged one keeps its bytes, a changed one is written without compression."""
    keyword, _, rest = chunk.data.partition(b"\x00")
    clean = clean_xmp if keyword == XMP_KEYWORD else clean_text
    prefix, packed, text = b"", False, rest
    if chunk.kind == b"zTXt":
        packed, text = True, rest[1:]
    elif chunk.kind == b"iTXt":
        packed = rest[:1] == b"\x01"
        language, _, tail = rest[2:].partition(b"\x00")
        translated, _, text = tail.partition(b"\x00")
        prefix = b"\x00\x00" + language + b"\x00" + translated + b"\x00"
    if packed:
        inflater = zlib.decompressobj()
        try:
            text = inflater.decompress(text, MAX_TEXT)
        except zlib.error:
            return CleanBlock(b"", damaged=True)
        if inflater.unconsumed_tail:
            return CleanBlock(b"", damaged=True)
    if keyword.startswith(b"Raw profile type ") and _hex_picture(text):
        return CleanBlock(b"", renditions=True)
    block = clean(text)
    if block.data == text:
        return CleanBlock(chunk.data)
    if not block.data:
        return block
    data = zlib.compress(block.data) if chunk.kind == b"zTXt" else block.data
    prefix = b"\x00" if chunk.kind == b"zTXt" else prefix
    return CleanBlock(keyword + b"\x00" + prefix + data, block.renditions, block.damaged)


def _hex_picture(profile: bytes) -> bool:
    """Whether an ImageMagick profile (name, length, hexadecimal lines) holds a picture."""
    digits = b"".join(profile.split()).lower()
    return b"ffd8ff" in digits or b"89504e470d0a1a0a" in digits

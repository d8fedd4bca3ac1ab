"""The chunks of a PNG file: read, chosen, and put in front of newly coded pixels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from rid.models.photo_files.metadata import (
    PHOTOSHOP,
    CleanBlock,
    clean_exif,
    clean_photoshop,
    clean_profile,
    clean_text,
    clean_xmp,
    exif_with_orientation,
    holds_picture,
)
from rid.models.photo_files.photos import PhotoRefused

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
ANIMATION = (b"acTL", b"fcTL", b"fdAT")
KEPT = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tIME", b"oFFs", b"pCAL", b"sCAL"}
KEPT_IF_UNCONVERTED = {b"sBIT", b"bKGD"}  # their layout depends on the colour type
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
XMP_KEYWORD = b"XML:com.adobe.xmp"
XMP = b"http://ns.adobe.com/xap/1.0/\x00"
PROFILE_HEADS = (b"Exif\x00\x00", PHOTOSHOP, XMP)
MAX_CHUNKS = 200_000  # 1.6 GB of pixels in the customary parts of 8 KB
MAX_TEXT = 16 * 2**20  # bytes of all inflated text chunks of a file


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
    """The metadata that goes with the protected picture.

    Attributes:
        chunks: all of it but the XMP packet.
        xmp: the XMP packet; empty if there is none.
        flags: what had to be left out.
    """

    chunks: tuple[Chunk, ...]
    xmp: bytes
    flags: tuple[str, ...]


def read_chunks(data: bytes, *, only_header: bool = False) -> Chunks:
    """Reads chunks up to IEND, or only the small ones without the pixel data.

    Raises:
        PhotoRefused: `decode_error` if there are more of them than any encoder writes.
    """
    chunks: list[Chunk] = []
    at, count = len(SIGNATURE), 0
    while at + 12 <= len(data):
        count += 1
        if count > MAX_CHUNKS:
            raise PhotoRefused("decode_error", f"the PNG has more than {MAX_CHUNKS} chunks")
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
    xmp: CleanBlock | None = None
    room = MAX_TEXT
    for chunk in chunks:
        if chunk.kind in CRITICAL or chunk.kind == b"tRNS":
            continue
        if not chunk.sound:
            flags.append("metadata_damaged")
        elif (packet := xmp_of(chunk)) is not None:
            flags += ["metadata_dropped"] if xmp is not None else clean_xmp(packet).flags
            xmp = xmp or clean_xmp(packet)
        elif chunk.kind == b"iCCP":
            block = _clean_profile_chunk(chunk)
            kept += [chunk] if block.data else []
            flags += block.flags
        elif chunk.kind in KEPT or (chunk.kind in KEPT_IF_UNCONVERTED and not converted):
            kept.append(chunk)
        elif chunk.kind == b"eXIf":
            block = clean_exif(chunk.data)
            exif = block.data or exif_with_orientation(orientation)
            kept += [Chunk(b"eXIf", exif)] if exif else []
            flags += block.flags
        elif chunk.kind in TEXTS:
            block, inflated = _clean_text_chunk(chunk, room)
            room -= inflated
            kept += [Chunk(chunk.kind, block.data)] if block.data else []
            flags += block.flags
        elif holds_picture(chunk.data):
            flags.append("renditions_removed")
        elif chunk.kind in KEPT_IF_UNCONVERTED or not chunk.kind[3] & 32:
            flags.append("metadata_dropped")
        else:
            kept.append(chunk)
    return KeptChunks(tuple(kept), xmp.data if xmp else b"", tuple(dict.fromkeys(flags)))


def xmp_of(chunk: Chunk) -> bytes | None:
    """Returns the XMP packet of a chunk; None if it holds none, or a damaged one."""
    keyword, _, rest = chunk.data.partition(b"\x00")
    if chunk.kind != b"iTXt" or keyword != XMP_KEYWORD:
        return None
    text = _read_text(chunk.kind, rest)
    return text.text if text else None


def xmp_chunk(packet: bytes) -> Chunk:
    """Returns the chunk of an XMP packet."""
    return Chunk(b"iTXt", XMP_KEYWORD + b"\x00" * 5 + packet)


@dataclass(frozen=True)
class _Text:
    """The text of a chunk, inflated, and what stands between its keyword and its text when it is not compressed."""

    prefix: bytes
    text: bytes


def _read_text(kind: bytes, rest: bytes, room: int = MAX_TEXT) -> _Text | None:
    """Reads what follows the keyword of a text chunk; None if it cannot be inflated, or to too much."""
    if kind == b"tEXt":
        return _Text(b"", rest)
    if kind == b"zTXt":
        text = _inflated(rest[1:], room)
        return None if text is None else _Text(b"\x00", text)
    language, _, tail = rest[2:].partition(b"\x00")
    translated, _, stored = tail.partition(b"\x00")
    text = _inflated(stored, room) if rest[:1] == b"\x01" else stored
    return None if text is None else _Text(b"\x00\x00" + language + b"\x00" + translated + b"\x00", text)


def _inflated(packed: bytes, room: int = MAX_TEXT) -> bytes | None:
    if room <= 0:
        return None
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, room)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else text


def _clean_text_chunk(chunk: Chunk, room: int) -> tuple[CleanBlock, int]:
    """Cleans a text chunk, and says how many bytes more than its own it took when it was inflated.

    An unchanged one keeps its bytes, a changed iTXt is written without compression.
    """
    keyword, _, rest = chunk.data.partition(b"\x00")
    read = _read_text(chunk.kind, rest, room)
    if read is None:
        return CleanBlock(b"", damaged=True), 0
    return _cleaned_text(chunk, keyword, read), max(0, len(read.text) - len(rest))


def _cleaned_text(chunk: Chunk, keyword: bytes, read: _Text) -> CleanBlock:
    clean = clean_raw_profile if keyword.startswith(b"Raw profile type ") else clean_text
    block = clean(read.text)
    if block.data == read.text:
        return replace(block, data=chunk.data)
    if not block.data:
        return block
    data = zlib.compress(block.data) if chunk.kind == b"zTXt" else block.data
    return replace(block, data=keyword + b"\x00" + read.prefix + data)


def clean_raw_profile(text: bytes) -> CleanBlock:
    """Cleans an ImageMagick profile: its name, its length and hexadecimal lines of EXIF, IPTC, XMP or others."""
    name, _, rest = text.lstrip(b"\n").partition(b"\n")
    _, _, digits = rest.lstrip().partition(b"\n")
    try:
        data = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return CleanBlock(b"", damaged=True)
    head = next((start for start in PROFILE_HEADS if data.startswith(start)), b"")
    body = data[len(head) :]
    if body.startswith((b"II*\x00", b"MM\x00*")):
        block = clean_exif(body)
    elif body.startswith(b"8BIM"):
        block = clean_photoshop(body)
    elif name.strip() == b"xmp" or head == XMP:
        block = clean_xmp(body)
    else:
        block = CleanBlock(b"", renditions=True, dropped=True) if holds_picture(body) else CleanBlock(body)
    if block.data == body or not block.data:
        return replace(block, data=text if block.data else b"")
    clean = head + block.data
    digits = b"\n".join(clean[at : at + 36].hex().encode() for at in range(0, len(clean), 36))
    return replace(block, data=b"\n%s\n%8d\n%s\n" % (name, len(clean), digits))


def _clean_profile_chunk(chunk: Chunk) -> CleanBlock:
    """Leaves out a colour profile that cannot be inflated or holds a picture."""
    _, _, rest = chunk.data.partition(b"\x00")
    profile = _inflated(rest[1:])
    if profile is None:
        return CleanBlock(b"", damaged=True)
    return clean_profile(profile)

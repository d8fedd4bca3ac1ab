"""A folder of hostile and odd files, and what has to become of each."""

import functools
import io
import os
import pickle
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from odd_photos import encoded, photograph
from PIL import Image

from rid.models.photo_files.png.chunks import SIGNATURE, Chunk

PHOTO = photograph(96, 80)
KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}
PROTECTED = "protected"
NOISE = np.random.default_rng(7).bytes(500)
HIDDEN = "jane-doe-1984"  # in names and metadata; never in a log


# -------------------------------------------------------------------------------------------------------- pieces


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more marker segments in front."""
    data = encoded(PHOTO)
    more = b"".join(bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + more + data[2:]


def png_with(*chunks: Chunk) -> bytes:
    """A PNG with more chunks after its header."""
    data = encoded(PHOTO, "PNG")
    return data[:33] + b"".join(chunk.to_bytes() for chunk in chunks) + data[33:]


def png_header(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG that claims a size and holds a few rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = (Chunk(b"IHDR", header), Chunk(b"IDAT", zlib.compress(rows)), Chunk(b"IEND", b""))
    return SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks)


def webp_with(kind: bytes, body: bytes) -> bytes:
    """A WebP with one more chunk."""
    coded = encoded(PHOTO, "WEBP")
    size = struct.pack("<I", PHOTO.width - 1)[:3] + struct.pack("<I", PHOTO.height - 1)[:3]
    more = kind + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)
    inner = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes((8, 0, 0, 0)) + size + coded[12:] + more
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """A big-endian TIFF directory."""
    return struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", *entry) for entry in entries) + bytes(4)


def nested_exif(depth: int) -> bytes:
    """Directories inside directories."""
    head = bytearray(b"MM\x00*" + struct.pack(">I", 8))
    for i in range(depth):
        head += directory((0x8769, 4, 1, 8 + 18 * (i + 1)))
    return bytes(head)


def overlapping_exif(size: int) -> bytes:
    """A block of which every part is a directory that points to another part."""
    body = bytearray(size)
    count = (size - 30) // 12
    struct.pack_into(">H", body, 0, min(count, 65_535))
    for i in range(count):
        struct.pack_into(">HHII", body, 2 + 12 * i, 0x8769, 4, 1, 8 + 12 * i)
    return b"MM\x00*" + struct.pack(">I", 8) + bytes(body)


def stacked_exif(count: int, size: int) -> bytes:
    """Many values that all lie on the same bytes."""
    entries = [(0x9000 + i % 4000, 7, size, 8) for i in range(count)]
    return b"MM\x00*" + struct.pack(">I", 8) + directory(*entries) + bytes(size)


def xmp_png(packet: bytes) -> bytes:
    return png_with(Chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + packet))


def with_lying_size(kind: str) -> bytes:
    """A small file whose header claims a huge picture."""
    data = bytearray(encoded(PHOTO, kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    elif kind == "WEBP":
        data[26:30] = struct.pack("<HH", 16_383, 16_383)
    elif kind == "TIFF":
        at = struct.unpack_from("<I", data, 4)[0] + 2
        for entry in (at, at + 12):
            struct.pack_into("<HHII", data, entry, 256 + (entry > at), 4, 1, 60_000)
    else:
        return png_header(30_000, 30_000)
    return bytes(data)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.txt", "hello")
    return out.getvalue()


class Exploit:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


# ------------------------------------------------------------------------------------------------------ the folder


def hostile_files(trap: Path) -> dict[str, tuple[bytes, str]]:
    """Content and fate by name: `protected`, or the reason of its quarantine.

    Args:
        trap: a file that is created if something is unpickled.
    """
    files: dict[str, tuple[bytes, str]] = {}
    files |= _every_format() | _orientations() | _cut() | _modes()
    files |= {f"bomb-{kind}.{suffix}": (with_lying_size(kind), "too_many_pixels") for kind, suffix in KINDS.items()}
    files |= {name: (make(), PROTECTED) for name, make in odd_metadata().items()}
    files |= _polyglots(trap)
    files |= {
        "nothing.jpg": (b"", "empty"),
        "one.jpg": (b"\xff", "unsupported_format"),
        "start.jpg": (b"\xff\xd8\xff", "truncated"),
        "text.jpg": (b"a text", "unsupported_format"),
        "segments.jpg": (b"\xff\xd8" + b"\xff\xe5\x00\x02" * 60_000, "decode_error"),
        "fill.jpg": (b"\xff\xd8" + b"\xff" * 2**20, "truncated"),
        "chunks.png": (encoded(PHOTO, "PNG")[:33] + Chunk(b"tEXt", b"").to_bytes() * 210_000, "decode_error"),
        "chunks.webp": (
            b"RIFF" + struct.pack("<I", 4 + 8 * 5000) + b"WEBP" + b"abcd\x00\x00\x00\x00" * 5000,
            "decode_error",
        ),
        "tiny.png": (png_header(1, 1, rows=bytes(4)), "too_small"),
        "no-pixels.png": (png_header(64, 64), "truncated"),
        "more-pixels.png": (png_header(64, 64, rows=bytes(10**6)), PROTECTED),
    }
    return files


def _every_format() -> dict[str, tuple[bytes, str]]:
    """A file of every format that Pillow writes, all called .jpg."""
    Image.init()
    found = {}
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "L", "P", "1"):
            out = io.BytesIO()
            try:
                PHOTO.convert(mode).save(out, kind)
                break
            except (OSError, ValueError, KeyError, RuntimeError, AttributeError):
                continue
        else:
            continue
        read = kind in KINDS or kind in ("MPO", "JFIF")
        found[f"pillow-{kind.lower()}.jpg"] = (out.getvalue(), PROTECTED if read else "unsupported_format")
    return found


def _orientations() -> dict[str, tuple[bytes, str]]:
    found = {}
    for kind, suffix in KINDS.items():
        for orientation in range(10):
            exif = Image.Exif()
            exif[0x0112] = orientation
            found[f"turned-{orientation}-{kind}.{suffix}"] = (encoded(PHOTO, kind, exif=exif), PROTECTED)
    return found


def _cut() -> dict[str, tuple[bytes, str]]:
    return {
        f"cut-{share}-{kind}.{suffix}": (encoded(PHOTO, kind)[: len(encoded(PHOTO, kind)) * share // 100], "truncated")
        for kind, suffix in KINDS.items()
        for share in (10, 25, 50, 75, 90, 99)
    }


def _modes() -> dict[str, tuple[bytes, str]]:
    turning = [photograph(96, 80, seed=i) for i in range(3)]
    several = {"save_all": True, "append_images": turning[1:]}
    sixteen = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)
    return {
        "grey.jpg": (encoded(PHOTO.convert("L")), PROTECTED),
        "grey-alpha.png": (encoded(PHOTO.convert("LA"), "PNG"), PROTECTED),
        "alpha.webp": (encoded(PHOTO.convert("RGBA"), "WEBP", lossless=True), PROTECTED),
        "palette.png": (encoded(PHOTO.quantize(32), "PNG"), PROTECTED),
        "cmyk.jpg": (encoded(PHOTO.convert("CMYK")), "unsupported_mode"),
        "cmyk.tif": (encoded(PHOTO.convert("CMYK"), "TIFF"), "unsupported_mode"),
        "sixteen.png": (encoded(sixteen, "PNG"), "unsupported_bit_depth"),
        "sixteen.tif": (encoded(sixteen, "TIFF"), "unsupported_bit_depth"),
        "one-bit.png": (encoded(PHOTO.convert("1"), "PNG"), "unsupported_bit_depth"),
        "one-bit.tif": (encoded(PHOTO.convert("1"), "TIFF"), "unsupported_bit_depth"),
        "moving.png": (encoded(turning[0], "PNG", **several), "animated"),
        "moving.webp": (encoded(turning[0], "WEBP", **several), "animated"),
        "pages.tif": (encoded(turning[0], "TIFF", **several), "animated"),
        "moving.gif": (encoded(turning[0], "GIF", **several), "unsupported_format"),
    }


@functools.cache
def odd_metadata() -> dict[str, Callable[[], bytes]]:
    """Makers of photos whose metadata is damaged or hostile, and whose pixels are fine."""
    entities = b'<!DOCTYPE x [<!ENTITY a "aaaa">%s]><x>&a19;</x>' % b"".join(
        b'<!ENTITY a%d "%s">' % (i, (b"&a%d;" % (i - 1) if i else b"&a;") * 10) for i in range(20)
    )
    external = b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x"><x xmlns:r="file:///etc/passwd"/>'
    turned = Chunk(b"eXIf", b"MM\x00*" + struct.pack(">I", 8) + directory((0x0112, 3, 1, 6 << 16)))
    return {
        "exif-garbage.jpg": lambda: jpeg_with((0xE1, b"Exif\x00\x00" + NOISE)),
        "exif-short.jpg": lambda: jpeg_with((0xE1, b"Exif\x00\x00MM\x00*")),
        "exif-loop.jpg": lambda: jpeg_with(
            (0xE1, b"Exif\x00\x00MM\x00*" + struct.pack(">I", 8) + directory((0x8769, 4, 1, 8)))
        ),
        "exif-nested.jpg": lambda: jpeg_with((0xE1, b"Exif\x00\x00" + nested_exif(3000))),
        "exif-nested.png": lambda: png_with(Chunk(b"eXIf", nested_exif(50_000))),
        "exif-overlapping.jpg": lambda: jpeg_with((0xE1, b"Exif\x00\x00" + overlapping_exif(60_000))),
        "exif-overlapping.png": lambda: png_with(Chunk(b"eXIf", overlapping_exif(2**21))),
        "exif-stacked.png": lambda: png_with(Chunk(b"eXIf", stacked_exif(60_000, 2**20))),
        "exif-stacked.webp": lambda: webp_with(b"EXIF", stacked_exif(60_000, 2**20)),
        "exif-wrong-checksum.png": lambda: png_with(turned).replace(turned.to_bytes()[-4:], bytes(4)),
        "xmp-entities.png": lambda: xmp_png(entities),
        "xmp-external.png": lambda: xmp_png(external),
        "xmp-nested.png": lambda: xmp_png(b"<a>" * 200_000),
        "xmp-garbage.jpg": lambda: jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + NOISE)),
        "xmp-references.png": lambda: xmp_png(b"&#xA;A" * 200_000),
        "icc-garbage.jpg": lambda: jpeg_with((0xE2, b"ICC_PROFILE\x00\x01\x01" + NOISE)),
        "icc-part-of-many.jpg": lambda: jpeg_with((0xE2, b"ICC_PROFILE\x00\x07\xff" + bytes(100))),
        "icc-bomb.png": lambda: png_with(Chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(2**26)))),
        "text-bombs.png": lambda: png_with(*[Chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(15 * 2**20)))] * 100),
        "photoshop-garbage.jpg": lambda: jpeg_with((0xED, b"Photoshop 3.0\x008BIM" + NOISE)),
        "named.jpg": lambda: jpeg_with((0xFE, HIDDEN.encode()), (0xE1, b"Exif\x00\x00" + HIDDEN.encode())),
    }


def _polyglots(trap: Path) -> dict[str, tuple[bytes, str]]:
    photo = encoded(PHOTO)
    return {
        "photo-and-zip.jpg": (photo + zipped(), PROTECTED),
        "photo-and-photo.jpg": (photo + encoded(photograph(96, 80, seed=2)), PROTECTED),
        "photo-and-page.png": (encoded(PHOTO, "PNG") + b"<script>alert(1)</script>", PROTECTED),
        "photo-and-page.webp": (encoded(PHOTO, "WEBP") + b"<script>alert(1)</script>", PROTECTED),
        "script-in-comment.jpg": (jpeg_with((0xFE, b"*/=1;alert(1)/*")), PROTECTED),
        "gif-and-script.jpg": (b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)", "unsupported_format"),
        "png-as-photo.jpg": (encoded(PHOTO, "PNG"), PROTECTED),
        "postscript.jpg": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
            "unsupported_format",
        ),
        "page.jpg": (b"%PDF-1.7\n", "unsupported_format"),
        "drawing.png": (
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            "unsupported_format",
        ),
        "layers.tif": (b"8BPS\x00\x01" + bytes(40), "unsupported_format"),
        "archive.jpg": (zipped(), "unsupported_format"),
        "program.jpg": (b"\x7fELF" + bytes(100), "unsupported_format"),
        "pickled.jpg": (pickle.dumps(Exploit(trap)), "unsupported_format"),
    }


def write_hostile_folder(folder: Path, trap: Path) -> dict[str, str]:
    """Writes the folder and returns the fate of each file by its key.

    Args:
        folder: a new one.
        trap: a file that is created if something is unpickled; a link in the folder leads to it.
    """
    fates = {}
    for name, (data, fate) in hostile_files(trap).items():
        _write(folder / name, data)
        fates[name] = fate
    photo = encoded(PHOTO)
    fine = [
        f"{HIDDEN}.jpg",
        " space.jpg",
        "ünï/ça va.jpg",
        "quote'\"$(id).jpg",
        "%2e%2e%2fup.jpg",
        "-rf.jpg",
        "x" * 230 + ".jpg",
    ]
    unsafe = ["line\nfeed.jpg", "bell\x07.jpg", "back\\slash.jpg", "gpj.‮evil.jpg", "y" * 245 + ".jpg"]
    same = ["Case.jpg", "case.jpg", unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")]
    for names, fate in ((fine, PROTECTED), (unsafe, "unsafe_name"), (same, "name_collision")):
        for name in names:
            _write(folder / name, photo)
            fates[name] = fate
    _write(folder / os.fsdecode(b"bytes-\xff.jpg"), photo)
    fates["bytes-\\udcff.jpg"] = "unsafe_name"
    outside = folder.parent / "outside.jpg"
    _write(outside, photo)
    for name, leads_to in (
        ("link-out.jpg", outside),
        ("link-nowhere.jpg", "nowhere"),
        ("link-loop.jpg", "link-loop.jpg"),
    ):
        (folder / name).symlink_to(leads_to)
        fates[name] = "unreadable"
    (folder / "link-to-folder.jpg").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    return fates | {"link-to-folder.jpg": "unreadable", "pipe.jpg": "unreadable"}


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)

"""The round-trip table of docs/formats.md is what happens: every format and mode, with all the metadata it can hold.

`PYTHONPATH=. python tests/photo_files/test_formats.py` writes the table anew. Files are read with Pillow, not with the
codecs that wrote them.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from metadata_blocks import IPTC, fully_described, other_pictures
from odd_photos import photograph
from PIL import Image, IptcImagePlugin
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.photo_files.images import mark_of
from rid.models.photo_files.marks import pixels_sha256
from rid.models.photo_files.photos import FLAGS, PhotoRefused
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- round trips, written by tests/photo_files/test_formats.py -->\n", "<!-- end of round trips -->\n"
BUDGET = 6

RGB = photograph()
GREY, OTHER = RGB.convert("L"), photograph(seed=1).convert("L")
RGBA = Image.merge("RGBA", (*RGB.split(), OTHER))
PICTURES = {
    "1": RGB.convert("1"),
    "L": GREY,
    "LA": Image.merge("LA", (GREY, OTHER)),
    "P": RGB.quantize(64),
    "RGB": RGB,
    "RGBA": RGBA,
    "CMYK": RGB.convert("CMYK"),
    "16 bits": Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257),
    "float": GREY.convert("F"),
}
VARIANTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "JPEG 4:2:0": ("JPEG", "RGB", {}),
    "JPEG 4:2:2": ("JPEG", "RGB", {"subsampling": 1}),
    "JPEG 4:4:4": ("JPEG", "RGB", {"subsampling": 0}),
    "JPEG progressive": ("JPEG", "RGB", {"progressive": True}),
    # A density would make Pillow write JFIF, which says that the file is not stored as RGB.
    "JPEG stored as RGB": ("JPEG", "RGB", {"subsampling": 0, "keep_rgb": True, "dpi": (0, 0)}),
    "JPEG": ("JPEG", "L", {}),
    "JPEG, four colours": ("JPEG", "CMYK", {}),
    **{f"PNG {mode}": ("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "16 bits")},
    "PNG P, transparent colour": ("PNG", "P", {"transparency": 3}),
    "WebP lossless RGB": ("WEBP", "RGB", {"lossless": True}),
    "WebP lossless RGBA": ("WEBP", "RGBA", {"lossless": True, "exact": True}),
    "WebP lossy RGB": ("WEBP", "RGB", {"quality": 80}),
    "WebP lossy RGBA": ("WEBP", "RGBA", {"quality": 80}),
    **{f"TIFF {mode}": ("TIFF", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "16 bits", "float")},
    "TIFF LZW RGB": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "TIFF deflate RGB": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "TIFF JPEG RGB": ("TIFF", "RGB", {"compression": "jpeg"}),
}
KINDS = ("EXIF", "orientation", "XMP", "IPTC", "ICC", "density", "comment", "gamma")
COLUMNS = ("file", "mode", "pixels", "coding", *KINDS, "mark", "renditions", "flags")


def protector() -> Protector:
    return Protector(OnnxEngine(build_model()), ProtectionPolicy(), BUDGET, "5" * 64)


def read(data: bytes) -> dict[str, object]:
    """Returns what Pillow sees of each kind of metadata; a kind that the file lacks is absent."""
    with Image.open(io.BytesIO(data)) as picture:
        exif = picture.getexif()
        iptc = IptcImagePlugin.getiptcinfo(picture)
        raw = str(picture.info.get("Raw profile type iptc", ""))
        found = {
            "EXIF": exif.get(0x010E),
            "orientation": exif.get(0x0112),
            "XMP": b"xmpmeta" in picture.info.get("xmp", b"") or None,
            "IPTC": iptc or (IPTC.hex() in raw.replace("\n", "") or None),
            "ICC": picture.info.get("icc_profile"),
            "density": tuple(round(float(value)) for value in picture.info["dpi"]) if "dpi" in picture.info else None,
            "comment": picture.info.get("comment", picture.info.get("Comment")),
            "gamma": picture.info.get("gamma"),
        }
    return {kind: value for kind, value in found.items() if value is not None}


def decoded(data: bytes, mode: str = "") -> tuple[np.ndarray, str]:
    """Pixels (of a TIFF turned upright, as Pillow does), converted if the mode is another one, and the mode."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture.convert(mode) if mode else picture), picture.mode


def coding(data: bytes) -> tuple[object, ...]:
    """The coding of a picture, as far as the format says."""
    with Image.open(io.BytesIO(data)) as picture:
        layers = tuple(layer[1:3] for layer in getattr(picture, "layer", ()))
        layers = layers if len(layers) > 1 else ()  # sampling means nothing for one component
        tables = getattr(picture, "quantization", None)
        return picture.format, layers, tables, picture.info.get("progressive"), picture.info.get("compression")


def row(name: str) -> dict[str, str]:
    """Protects one file and says what became of each part."""
    kind, mode, options = VARIANTS[name]
    data = fully_described(kind, PICTURES[mode], **options)
    try:
        result = protector().protect(data)
    except PhotoRefused as refusal:
        return {"file": name, "mode": mode, "pixels": f"held back: `{refusal.reason}`"}
    before, after = read(data), read(result.data)
    mark = mark_of(result.data)
    new, new_mode = decoded(result.data)
    old, old_mode = decoded(data, new_mode)
    changed = old_mode if old_mode == new_mode else f"{old_mode} to {new_mode}"
    lossless = result.survival_gain == pytest.approx(1)
    assert not lossless or 0 < np.abs(new.astype(int) - old).max() <= BUDGET
    assert mark is not None and mark.pixels_sha256 == result.pixels_sha256
    assert kind == "TIFF" or mark.pixels_sha256 == pixels_sha256(new)
    assert not other_pictures(result.data)
    kinds = {what: _became(before.get(what), after.get(what)) for what in KINDS}
    return {
        "file": name,
        "mode": changed,
        "pixels": "within the budget" if lossless else "lossy",
        "coding": "kept" if coding(data) == coding(result.data) else "changed",
        **kinds,
        "mark": "written",
        "renditions": "removed" if other_pictures(data) else "-",
        "flags": ", ".join(f"`{flag}`" for flag in result.flags if flag in FLAGS) or "-",
    }


def _became(before: object, after: object) -> str:
    if before is None:
        return "-" if after is None else "added"
    return "kept" if after == before else "lost" if after is None else "changed"


def table() -> str:
    """The table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for name in VARIANTS:
        cells = row(name)
        lines.append("| " + " | ".join(cells.get(column, "") for column in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The table as the document has it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def test_the_table_in_the_documents_is_what_happens() -> None:
    assert table() == written(), "docs/formats.md is stale: PYTHONPATH=. python tests/photo_files/test_formats.py"


def test_nothing_is_lost_or_changed_in_silence() -> None:
    for line in written().splitlines()[2:]:
        cells = dict(zip(COLUMNS, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        if cells["pixels"].startswith("held back"):
            continue
        for kind in KINDS:
            assert cells[kind] in ("kept", "-"), (cells["file"], kind)
        assert cells["coding"] == "kept" or "coding_changed" in cells["flags"]
        assert " to " not in cells["mode"] or "palette_converted" in cells["flags"]


def test_the_document_names_every_flag_and_every_reason_of_refusal() -> None:
    from typing import get_args

    from rid.models.photo_files.photos import RefusalReason

    text = DOCUMENT.read_text(encoding="utf-8")
    assert not [name for name in (*FLAGS, *get_args(RefusalReason)) if f"`{name}`" not in text]


if __name__ == "__main__":
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    new = table()
    DOCUMENT.write_text(head + BEGIN + new + END + rest.partition(END)[2], encoding="utf-8")
    sys.stdout.write(new)

"""The demo's catalog: photographs that scikit-image ships (public domain or CC0), in many guises.

Portrait and landscape, 480 to 3,000 pixels, JPEG, PNG and WebP, every EXIF orientation, colour profiles, grey, alpha,
and three files that are not what their names say or not whole.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from rid.models.photo_files.resampling import from_upright

ORIENTATION, DESCRIPTION, ARTIST, COPYRIGHT = 0x0112, 0x010E, 0x013B, 0x8298


@dataclass(frozen=True)
class Guise:
    """One photo of the catalog.

    Attributes:
        name: its file, with folders.
        photograph: what scikit-image calls it.
        size: width and height in pixels, upright.
        kind: JPEG, PNG or WEBP.
        mode: RGB, L or RGBA.
        orientation: of the EXIF tag, 1 to 8; the stored pixels are turned to match.
        profile: whether it carries an sRGB profile.
        options: of the encoder.
    """

    name: str
    photograph: str
    size: tuple[int, int]
    kind: str = "JPEG"
    mode: str = "RGB"
    orientation: int = 1
    profile: bool = False
    options: dict[str, Any] = field(default_factory=dict, hash=False)


GUISES = (
    Guise("portraits/astronaut.jpg", "astronaut", (900, 1200), profile=True, options={"quality": 92}),
    *(
        Guise(f"portraits/turned-{o}.jpg", "astronaut", (480, 640), orientation=o, options={"quality": 88})
        for o in range(1, 9)
    ),
    Guise("portraits/progressive.jpg", "astronaut", (1000, 1250), options={"quality": 85, "progressive": True}),
    Guise("portraits/small.jpg", "astronaut", (480, 480), options={"quality": 75}),
    Guise("portraits/grey.jpg", "camera", (768, 1024), mode="L", options={"quality": 90}),
    Guise("portraits/cut-out.png", "astronaut", (512, 640), kind="PNG", mode="RGBA"),
    Guise("portraits/profile.png", "astronaut", (640, 800), kind="PNG", profile=True),
    Guise("portraits/grey.png", "camera", (600, 800), kind="PNG", mode="L"),
    Guise("portraits/exact.webp", "astronaut", (600, 750), kind="WEBP", options={"lossless": True}),
    Guise("portraits/small.webp", "astronaut", (720, 900), kind="WEBP", options={"quality": 85}),
    Guise("events/cat.jpg", "chelsea", (1350, 900), options={"quality": 95, "subsampling": 0}),
    Guise("events/coffee.jpg", "coffee", (1200, 800), options={"quality": 80}),
    Guise("events/launch.jpg", "rocket", (1920, 1280), profile=True, options={"quality": 90}),
    Guise("events/wide.jpg", "rocket", (2400, 1000), options={"quality": 85}),
    Guise("events/large.jpg", "astronaut", (3000, 2000), options={"quality": 90}),
    Guise("events/sky.png", "hubble_deep_field", (1000, 872), kind="PNG"),
    Guise("events/coffee.webp", "coffee", (1024, 683), kind="WEBP", mode="RGBA", options={"quality": 90}),
)


def write_demo_photos(folder: Path) -> int:
    """Writes the catalog's files; one that is there already stays as it is. Returns the number written."""
    written = 0
    for name, data in demo_files(folder):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        written += 1
    return written


def demo_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the files that `folder` lacks: the photos, and what is not a photo or not whole."""
    for guise in GUISES:
        if not (folder / guise.name).exists():
            yield guise.name, encode(guise)
    whole = Guise("", "chelsea", (1200, 800), options={"quality": 90})
    others: dict[str, Callable[[], bytes]] = {
        "events/interrupted-upload.jpg": lambda: encode(whole)[:40_000],
        "events/price-list.jpg": lambda: b"Prints 10x15: 0.49\nPrints 20x30: 4.90\n" * 20,
        "events/animated.gif": _animation,
        "events/read-me.txt": lambda: b"Photos of the demo: public domain or CC0, from scikit-image.\n",
    }
    for name, content in others.items():
        if not (folder / name).exists():
            yield name, content()


def encode(guise: Guise) -> bytes:
    """Returns the file of a guise."""
    upright = ImageOps.fit(photograph(guise.photograph), guise.size, Image.Resampling.LANCZOS)
    picture = upright.convert(guise.mode)
    if guise.mode == "RGBA":
        picture.putalpha(_vignette(guise.size))
    stored = Image.fromarray(np.ascontiguousarray(from_upright(np.asarray(picture), guise.orientation)))
    exif = Image.Exif()
    exif[ORIENTATION] = guise.orientation
    exif[DESCRIPTION] = f"demo photo of the photograph {guise.photograph}"
    exif[ARTIST], exif[COPYRIGHT] = "see scikit-image's data/README.txt", "public domain or CC0"
    options: dict[str, Any] = {"exif": exif, **guise.options}
    if guise.profile:
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if guise.kind == "PNG":
        text = PngInfo()
        text.add_text("Description", f"demo photo of the photograph {guise.photograph}")
        options["pnginfo"] = text
    out = io.BytesIO()
    stored.save(out, guise.kind, dpi=(300, 300), **options)
    return out.getvalue()


def photograph(name: str) -> Image.Image:
    """Returns a photograph that scikit-image ships: none of them is downloaded."""
    from skimage import data

    return Image.fromarray(getattr(data, name)())


def _vignette(size: tuple[int, int]) -> Image.Image:
    """An alpha channel: opaque in the middle, transparent in the corners."""
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    return Image.fromarray((255 * np.clip(2.2 - 1.6 * np.hypot(x, y), 0, 1)).astype(np.uint8))


def _animation() -> bytes:
    frames = [photograph("coffee").resize((96, 64)).rotate(angle) for angle in (0, 8)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()

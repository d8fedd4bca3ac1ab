"""Compares the default protector with the published loop: `python -m benchmarks.throughput`.

CPU-seconds of one thread a photo, file to file, on the same seeded 512 x 512 JPEGs. Rounds alternate the variants, so
that a machine that gets slower or faster meanwhile does so for all of them.

- published loop: see `benchmarks.published_loop`
- default: `Protector` with the shipped ONNX file
- non-network: the same with `RecordedEngine`, which hands out what the default's network gave before; its files are
  byte for byte the default's, so the difference between the two is the network
- non-network, 12 MP: the same on one 4000 x 3000 photo; not part of the last line
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import onnxruntime
import PIL
import skimage.data
import torch
from PIL import Image

from benchmarks.published_loop import PublishedLoop
from rid.models.engines import Engine, OnnxEngine, Pictures
from rid.models.photo_files.photos import Pixels
from rid.models.policy import ProtectionPolicy
from rid.models.protector import ProtectedPhoto, Protector

SHIPPED = Path(__file__).parents[1] / "models" / "weights" / "default"
SEED = 0
SIDE = 512
LARGE = (4000, 3000)  # width, height
GRAIN = 2.0  # levels; enlarged crops without it would be easier to code than photos are
QUALITIES = ((95, 0), (90, 2), (85, 2))  # JPEG quality and Pillow's code of the chroma subsampling, in turn
REWRITTEN = ("chroma_raised", "quality_raised")


@dataclass(frozen=True)
class Measured:
    """One variant.

    Attributes:
        name: its row's name.
        rounds_s: CPU-seconds a photo of each round, the mean over its photos.
    """

    name: str
    rounds_s: list[float]

    @property
    def median_s(self) -> float:
        """CPU-seconds a photo."""
        return statistics.median(self.rounds_s)


class RecordedEngine:
    """Hands out recorded perturbations, whatever squares it is given: a network that costs nothing."""

    def __init__(self, engine: Engine) -> None:
        self.name = f"recorded from {engine.name}"
        self.working_resolution, self.multiple = engine.working_resolution, engine.multiple
        self._engine = engine
        self._squares: Pictures | None = None

    def forget(self) -> None:
        """Takes the next answer from the real engine."""
        self._squares = None

    def perturb(self, pictures: Pictures, budget_levels: float) -> Pictures:
        """Returns (N, 3, S, S) perturbations in 8-bit levels, the first answer since `forget` every time."""
        if self._squares is None:
            self._squares = self._engine.perturb(pictures, budget_levels)
        return self._squares


class DefaultRows:
    """The default protector with its network, and without."""

    def __init__(self, defender: Path, folder: Path) -> None:
        """Opens the defender `defender` (config.json and model.onnx); outputs go to `folder`."""
        config = json.loads((defender / "config.json").read_text())
        self.budget_levels = int(config["budget"]["default"])
        self.engine = OnnxEngine((defender / "model.onnx").read_bytes(), threads=1)
        self._recorded = RecordedEngine(self.engine)
        self._default = Protector(self.engine, ProtectionPolicy(), self.budget_levels)
        self._non_network = Protector(self._recorded, ProtectionPolicy(), self.budget_levels)
        self._output = folder / "protected.jpg"

    def default_s(self, source: Path) -> float:
        """CPU-seconds of one photo."""
        return self._timed(self._default, source)

    def non_network_s(self, source: Path) -> float:
        """CPU-seconds of one photo without the network, and checks that the file is the default's."""
        self._recorded.forget()
        self.protect(self._non_network, source)
        cpu_s = self._timed(self._non_network, source)
        if self._output.read_bytes() != self.protect(self._default, source).data:
            raise RuntimeError(f"{source.name}: the file without the network is not the default's")
        return cpu_s

    def rewritten(self, sources: Sequence[Path]) -> int:
        """Number of photos that were encoded more than once, because the first file kept too little."""
        return sum(bool(set(REWRITTEN) & set(self.protect(self._default, source).flags)) for source in sources)

    def protect(self, protector: Protector, source: Path) -> ProtectedPhoto:
        """Protects from file to file."""
        result = protector.protect(source.read_bytes(), source.name)
        self._output.write_bytes(result.data)
        return result

    def _timed(self, protector: Protector, source: Path) -> float:
        began = process_time()
        self.protect(protector, source)
        return process_time() - began


def write_photos(folder: Path, photos: int) -> list[Path]:
    """Writes seeded square crops of scikit-image's photographs as 512 x 512 JPEGs."""
    rng = np.random.default_rng(SEED)
    originals = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    paths = []
    for number in range(photos):
        original = originals[number % len(originals)]
        height, width = original.shape[:2]
        side = int(rng.integers(256, min(height, width) + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crop = original[top : top + side, left : left + side]
        paths.append(write_photo(folder / f"photo-{number:03}.jpg", crop, (SIDE, SIDE), number, rng))
    return paths


def write_photo(path: Path, original: Pixels, size: tuple[int, int], number: int, rng: np.random.Generator) -> Path:
    """Writes (H, W, 3) pixels, enlarged to (width, height) `size` and with grain, in the number's JPEG quality."""
    grain = rng.normal(0, GRAIN, (size[1], size[0], 3)).astype(np.float32)
    pixels = cv2.resize(original, size, interpolation=cv2.INTER_CUBIC) + grain
    quality, subsampling = QUALITIES[number % len(QUALITIES)]
    picture = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    picture.save(path, quality=quality, subsampling=subsampling)
    return path


def measure(defender: Path, folder: Path, photos: int, rounds: int) -> list[Measured]:
    """Runs all variants in alternating rounds and prints what is not a row of the table."""
    sources = write_photos(folder, photos)
    large = write_photo(folder / "large.jpg", skimage.data.coffee()[:, :533], LARGE, 1, np.random.default_rng(SEED))
    rows = DefaultRows(defender, folder)
    published = PublishedLoop(folder, rows.budget_levels)
    network = Measured("published loop, its network alone", [])
    measured = [Measured(name, []) for name in ("published loop", "default", "non-network", "non-network, 12 MP")]

    def run_published(turn: int) -> float:
        photo = published.protect(sources[turn % photos], turn)
        network.rounds_s.append(photo.network_cpu_s)
        return photo.cpu_s

    variants: list[Callable[[int], float]] = [
        run_published,
        lambda turn: statistics.fmean(rows.default_s(source) for source in sources),
        lambda turn: statistics.fmean(rows.non_network_s(source) for source in sources),
        lambda turn: rows.non_network_s(large),
    ]
    rewritten = rows.rewritten([*sources, large])  # also the warm-up, like the next line
    published.protect(sources[0], rounds)
    for turn in range(rounds):
        order = range(len(variants)) if turn % 2 == 0 else reversed(range(len(variants)))
        for which in order:
            measured[which].rounds_s.append(variants[which](turn))
    print(f"default engine: {rows.engine.name}, {rows.engine.working_resolution} px, budget {rows.budget_levels}")
    print(f"published loop: torch {torch.__version__} eager fp32, 512 px, 1 photo a round")
    print(f"{rounds} rounds; {photos} photos a round of the default; {rewritten} of {photos + 1} encoded twice or more")
    return [measured[0], network, *measured[1:]]


def print_table(measured: list[Measured]) -> None:
    """Prints medians and spreads in CPU-ms a photo, then the line with the ratios."""
    print(f"\n{'CPU-ms a photo':36}{'median':>11}{'min':>11}{'max':>11}{'ratio':>9}")
    by_name = {row.name: row for row in measured}
    published_s = by_name["published loop"].median_s
    for row in measured:
        values = "".join(f"{1000 * value:11.2f}" for value in (row.median_s, min(row.rounds_s), max(row.rounds_s)))
        ratio = f"{published_s / row.median_s:8.1f}x" if row.name in ("published loop", "default") else ""
        print(f"{row.name:36}{values}{ratio}")
    default = published_s / by_name["default"].median_s
    non_network_ms = 1000 * by_name["non-network"].median_s
    print(f"\nthroughput reference=1.0x default={default:.1f}x non_network_ms={non_network_ms:.2f}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=24, help="photos a round of the default (24)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each costs one photo of the published loop (3)")
    parser.add_argument("--defender", type=Path, default=SHIPPED, help="folder of config.json and model.onnx")
    parser.add_argument("--quick", action="store_true", help="4 photos, 1 round: shows that it runs, measures badly")
    options = parser.parse_args(arguments)
    if options.quick:
        options.photos, options.rounds = 4, 1
    if options.photos < 1 or options.rounds < 1:
        parser.error(f"--photos {options.photos} --rounds {options.rounds}: both must be at least 1")
    if not (options.defender / "model.onnx").is_file():
        parser.error(f"--defender {options.defender} has no model.onnx: give the folder of an exported defender")
    return options


def main() -> None:
    """Measures and prints."""
    options = parse()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options.defender, Path(folder), options.photos, options.rounds)
    print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}, onnxruntime {onnxruntime.__version__}")
    print_table(measured)


if __name__ == "__main__":
    main()

"""Displacement in latent spaces of photos that the command's own code protected whole, beside controls of equal norm.

    python -m benchmarks.displacement --photos PEOPLE.parquet --defenders new=DIR old=DIR --pgd 40 200 --out FOLDER

For each side the photos are scaled to it and written as PNG; each is then protected as `rid protect` does, and seen
by an attacker: as it is, after JPEG 75, at half size, with the face cut at 60 % and 25 % of the side, and after blind
subtraction. Beside it stand noise, drawn stripes, the fixed pattern and another photo's perturbation, all of equal
norm. Prints a Markdown table a side and budget, with 95 % intervals over photos, and writes FOLDER/displacement.json.

Every part of a measurement is a file in FOLDER, named by all that decides it: a run that was stopped goes on.
The cost is that of the encoders: with bfloat16 products a photo takes about .2 CPU-seconds a space and picture at
256 px and .8 at 512, and each budget of a defender has ten pictures; a step of PGD costs three.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rid.assets.frozen.spaces import load_spaces
from rid.assets.studies.measured_photos import read_measured_photos
from rid.models.engines import OnnxEngine
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.models.upright_photos import upright_rgb
from rid.resources.defender_files import check_folder
from rid.resources.frozen.latent_spaces import space_sources
from rid.training.evaluation.effect.latent_ascent import ascend
from rid.training.evaluation.effect.latent_displacement import Yardstick, yardsticks
from rid.training.evaluation.gates.displacements import DisplacementTable, join_parts, measure_part, tabulate
from rid.training.evaluation.gates.whole_photos import ROWS, CleanPhotos, ProtectedPhotos, protect_whole, scaled_file
from rid.training.evaluation.judges.identity import dlib_embedder
from rid.training.evaluation.statistics import Interval, bootstrap_mean

EPOCH = 2  # raised when the same command has to measure anew
EMBEDDED = Path(__file__).parents[1] / "models" / "weights" / "embedded-64"


@dataclass(frozen=True)
class Contender:
    """One protection: a defender's folder, or an ascent of so many steps on each photo.

    Attributes:
        name: in the table.
        digest: of the defender, or of the ascent's settings.
        engine: of a defender.
        steps: of an ascent.
        photos: the first so many photos are protected.
    """

    name: str
    digest: str
    engine: OnnxEngine | None
    steps: int
    photos: int


class Parts:
    """Parts of measurements as files, named by all that decides them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def file(self, suffix: str, *decides: object) -> Path:
        """Returns the place of one part."""
        text = json.dumps([EPOCH, torch.__version__, *decides], sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{suffix}"

    @staticmethod
    def write(file: Path, data: bytes) -> None:
        """Writes a file that appears whole."""
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_bytes(data)
        unfinished.replace(file)


@dataclass(frozen=True)
class Side:
    """The photos at one side, and the units of all spaces there."""

    clean: CleanPhotos
    files: list[bytes]
    rulers: list[Yardstick]
    digest: str

    @property
    def spaces(self) -> list[str]:
        """Digests of the encoders."""
        return [ruler.space.digest for ruler in self.rulers]


def contenders(options: argparse.Namespace) -> list[Contender]:
    """Returns the defenders and the ascents of the command line."""
    found = []
    for given in options.defenders:
        name, _, folder = given.rpartition("=")
        config = check_folder(Path(folder))
        model = next(file for file in sorted(config["files"]) if file.endswith(".onnx"))
        engine = OnnxEngine((Path(folder) / model).read_bytes(), threads=options.threads)
        found.append(Contender(name or config["name"], config["digest"], engine, 0, options.count))
    for steps in options.pgd:
        found.append(Contender(f"PGD-{steps}", f"ascent-{steps}", None, steps, options.pgd_photos or options.count))
    return found


def at_side(
    photos: list[bytes], people: list[str], side: int, spaces: list[Any], parts: Parts, *, detect_faces: bool
) -> Side:
    """Scales the photos and measures the units, or finds them; cuts are around faces if they are to be detected."""
    files = [scaled_file(data, side) for data in photos]
    whole = [picture for picture in map(upright_rgb, files) if picture is not None]
    faces = [dlib_embedder().face(picture) for picture in whole] if detect_faces else [None] * len(whole)
    clean = CleanPhotos(whole, side, people, faces)
    names = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files)).hexdigest()
    digest = hashlib.sha256(f"{names} {faces}".encode()).hexdigest()
    rulers = []
    for space in spaces:
        file = parts.file(".pt", "unit", digest, side, space.digest)
        if not file.is_file():
            buffer = io.BytesIO()
            torch.save(yardsticks([space], clean.as_is)[0].deviation.cpu(), buffer)
            parts.write(file, buffer.getvalue())
        rulers.append(Yardstick(space, torch.load(file, weights_only=True).to(space.device)))
    return Side(clean, files, rulers, digest)


def protected_by(contender: Contender, side: Side, budget: int, options: argparse.Namespace, parts: Parts) -> list[Any]:
    """Returns the contender's protected photos, whole; an ascent's are kept by part."""
    if contender.engine is not None:
        return protect_whole(side.files, Protector(contender.engine, ProtectionPolicy(), budget))
    found: list[NDArray[np.uint8]] = []
    for part in parts_of(contender.photos, options.batch):
        pixels = side.clean.as_is[part.start : part.stop]
        settings = ("ascent", side.digest, side.spaces, side.clean.side, budget, contender.steps, options.seed, part)
        file = parts.file(".npy", *settings)
        if not file.is_file():
            levels = ascend(side.rulers, pixels, budget, steps=contender.steps, seed=options.seed + part.start)
            buffer = io.BytesIO()
            np.save(buffer, levels.astype(np.int8))
            parts.write(file, buffer.getvalue())
        found.extend((pixels + np.load(file).astype(np.int16)).astype(np.uint8))
    return found


def parts_of(count: int, batch: int) -> list[range]:
    """Cuts photos into parts."""
    return [range(start, min(count, start + batch)) for start in range(0, count, batch)]


def part_of_photos(side: Side, count: int) -> CleanPhotos:
    """The first photos; the whole object itself if that is all of them, so that latents are shared."""
    clean = side.clean
    return (
        clean
        if count >= len(clean)
        else CleanPhotos(clean.whole[:count], clean.side, clean.people[:count], clean.faces[:count])
    )


def measure_side(
    side: Side, found: list[Contender], options: argparse.Namespace, parts: Parts
) -> Iterator[dict[str, Any]]:
    """Yields a record a contender and budget."""
    cells = []
    for budget in options.budgets:
        for contender in found:
            whole = protected_by(contender, side, budget, options, parts)
            cells.append((contender, budget, ProtectedPhotos(part_of_photos(side, len(whole)), whole), []))
    started = time.process_time()
    for part in parts_of(len(side.clean), options.batch):
        for contender, budget, protected, measured in cells:
            if part.stop > len(protected.clean):
                continue
            settings = (contender.digest, side.digest, side.spaces, side.clean.side, budget, len(protected.clean))
            file = parts.file(".json", "part", *settings, options.rows, options.seed, part)
            if not file.is_file():
                values = measure_part(protected, side.rulers, options.rows, part, seed=options.seed)
                parts.write(file, json.dumps(values).encode())
            measured.append(json.loads(file.read_bytes()))
        spent = time.process_time() - started
        print(f"{side.clean.side} px: {part.stop} of {len(side.clean)} photos, {spent:.0f} CPU-s", file=sys.stderr)
    for contender, budget, protected, measured in cells:
        yield {
            "contender": contender.name,
            "digest": contender.digest,
            "side": side.clean.side,
            "budget": budget,
            "photos": len(protected.clean),
            "people": len(set(protected.clean.people)),
            "rms_of_budget": float(np.sqrt(np.square(protected.changes, dtype=np.float64).mean()) / budget),
            "cosine": bootstrap_mean(protected.cosines()),
            "common_share": protected.common_share(),
            "table": tabulate(join_parts(measured), seed=options.seed),
        }


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns a table a side and budget: displacement as is by space, over noise, what is left, shares of controls."""
    lines = []
    for side, budget in dict.fromkeys((record["side"], record["budget"]) for record in records):
        chosen = [record for record in records if (record["side"], record["budget"]) == (side, budget)]
        first: DisplacementTable = chosen[0]["table"]
        columns = [*first.displacement["as is"], "over noise", *first.left, "cosine", "one direction", *first.shares]
        lines += [f"\n### {side} px, +-{budget}, {chosen[0]['photos']} photos of {chosen[0]['people']} people\n"]
        lines += [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for record in chosen:
            table: DisplacementTable = record["table"]
            noise = table.displacement.get("noise", {})
            cells = [
                f"{_text(one)} ({noise[space].mean:.2f})" if space in noise else _text(one)
                for space, one in table.displacement["as is"].items()
            ]
            cells.append(_text(table.over_noise_mean) + " x" if table.over_noise_mean else "")
            cells += [_text(one) for one in (*table.left.values(), record["cosine"])]
            cells += [f"{record['common_share']:.2f}", *(_text(one) for one in table.shares.values())]
            lines.append(f"| {record['contender']} ({record['photos']}) | {' | '.join(cells)} |")
    lines.append("\nBy space: displacement in units of channel variance, in brackets that of noise of equal norm; then")
    lines.append("what is left of it after each treatment, and each control of equal norm as a share of it.")
    return "\n".join(lines)


def _text(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", required=True, help="Parquet files of people, or folders of them")
    parser.add_argument("--people", help="FIRST:LAST of the identities, such as id20:id39")
    parser.add_argument("--count", type=int, default=64, help="photos")
    parser.add_argument("--detect-faces", action="store_true", help="cut around faces (dlib); else from the middle")
    parser.add_argument("--spaces", nargs="+", default=["sd1", "sdxl", "sd3", "flux1"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--budgets", nargs="+", type=int, default=[16, 8, 6])
    parser.add_argument("--defenders", nargs="*", default=[], metavar="[NAME=]FOLDER")
    parser.add_argument("--pgd", nargs="*", type=int, default=[], metavar="STEPS")
    parser.add_argument("--pgd-photos", type=int, help="the first so many photos are enough for PGD")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8, help="photos a part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the results."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    parts = Parts(options.out / "parts")
    found_photos = read_measured_photos(options.photos, options.count, options.people)
    photos, people = found_photos.files, found_photos.people
    options.count = len(photos)
    found = contenders(options)
    spaces = load_spaces(space_sources(options.spaces, EMBEDDED))
    records: list[dict[str, Any]] = []
    for size in options.sizes:
        records += measure_side(
            at_side(photos, people, size, spaces, parts, detect_faces=options.detect_faces), found, options, parts
        )
    command = f"python -m benchmarks.displacement {shlex.join(arguments if arguments is not None else sys.argv[1:])}"
    plain = [record | {"cosine": asdict(record["cosine"]), "table": asdict(record["table"])} for record in records]
    encoders = {space.name: space.digest for space in spaces}
    text = json.dumps({"command": command, "spaces": encoders, "records": plain}, indent=1)
    (options.out / "displacement.json").write_text(text + "\n")
    print(markdown(records))
    print(f"\n{len(photos)} photos; `{command}`")


if __name__ == "__main__":
    main()

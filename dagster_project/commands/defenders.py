"""`rid defenders`: which defenders there are, how good they are, and how one comes in, is promoted or goes out."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.settings import WEIGHTS, rid_home

IMPORT_NEEDS = ("torch", "safetensors", "onnx", "onnxscript")


def list_defenders(*, as_json: bool) -> int:
    """Prints every defender with its aliases, budget, licence and gates."""
    from rid.training.evaluation.gates.figures import failures, figures_in, verdict

    entries = rid_home().registry().entries()
    if as_json:
        listed = []
        for entry in entries:
            figures = figures_in(entry.config)
            gates = {"failures": None if figures is None else failures(figures)}
            listed.append({"aliases": entry.aliases, "location": entry.location, **entry.config, "gates": gates})
        print(json.dumps(listed))
        return exit_codes.OK
    for entry in entries:
        print(f"{entry.digest[:12]}  {entry.name}  {', '.join(entry.aliases) or '-'}")
        print(f"    {entry.budgets}, default {entry.budget(None)}; {entry.config['licence']}")
        print(f"    {entry.config['description']}")
        print(f"    gates: {verdict(figures_in(entry.config))}")
    return exit_codes.OK


def promote(name: str, *, although_it_fails: bool) -> int:
    """Makes a defender the default, if it passes its gates or that does not matter.

    Raises:
        ValueError: if it was not measured, or fails; the sentence has its figures.
    """
    from rid.assets.studies.defender_gates import GatesFailed
    from rid.assets.studies.defender_gates import promote as promoted

    try:
        entry = promoted(rid_home().registry(), name, although_it_fails=although_it_fails)
    except GatesFailed as failed:
        raise InvalidRequest(f"{failed}: --although-it-fails") from failed
    print(f"default is now {entry.name} {entry.digest[:12]}: drops protected by another defender are outdated")
    return exit_codes.OK


@dataclass(frozen=True)
class MeasureOptions:
    """The options of a measurement; see `rid.assets.studies.defender_gates.Measuring`.

    Attributes:
        photos: Parquet files and folders.
        count: of photos.
        people: FIRST:LAST, or None.
        spaces: that the defender claims.
        unseen: that it was not trained on.
        sides: in pixels.
        budgets: in levels; empty takes the defender's default.
        seed: of noise and dither.
    """

    photos: tuple[str, ...]
    count: int
    people: str | None
    spaces: tuple[str, ...]
    unseen: tuple[str, ...]
    sides: tuple[int, ...]
    budgets: tuple[int, ...]
    seed: int


def measure(name: str, options: MeasureOptions, *, as_json: bool) -> int:
    """Measures a defender, writes its figures into its card and prints them; says whether it passes its gates."""
    lacking = [package for package in ("torch", "diffusers") if importlib.util.find_spec(package) is None]
    if lacking:
        raise InvalidRequest(
            f"measuring a defender needs {', '.join(lacking)}, which this machine lacks: install the extra `train`"
        )
    from rid.assets.studies.defender_gates import Measuring
    from rid.assets.studies.defender_gates import measure as measured
    from rid.assets.studies.measured_photos import read_measured_photos
    from rid.resources.frozen.latent_spaces import space_sources
    from rid.training.evaluation.gates.figures import MEASURED, failures, summary, verdict

    registry = rid_home().registry()
    entry = registry.resolve(name)
    sources = space_sources([*options.spaces, *options.unseen], WEIGHTS / "embedded-64")
    photos = read_measured_photos(options.photos, options.count, options.people)
    what = Measuring(
        photos=photos,
        claimed=sources[: len(options.spaces)],
        unseen=sources[len(options.spaces) :],
        sides=options.sides,
        budgets=options.budgets,
        seed=options.seed,
    )
    figures = measured(entry, what, lambda line: print(line, file=sys.stderr, flush=True))
    registry.record(name, MEASURED, figures.to_json())
    if as_json:
        print(json.dumps({"digest": entry.digest, **figures.to_json(), "failures": failures(figures)}))
        return exit_codes.OK
    for line in summary(figures):
        print(line)
    print(f"gates of {entry.name} {entry.digest[:12]}: {verdict(figures)}")
    return exit_codes.OK


def import_published(
    file: Path, *, name: str | None, budget: int | None, heads: int | None, blocks: int | None, as_json: bool
) -> int:
    """Folds a published checkpoint, exports it to ONNX, registers it under RID_HOME and prints its digest.

    Raises:
        ValueError: in one sentence, if the file is no published checkpoint, or this machine lacks what reads it.
    """
    lacking = [package for package in IMPORT_NEEDS if importlib.util.find_spec(package) is None]
    if lacking:
        raise InvalidRequest(
            f"importing a checkpoint needs {', '.join(lacking)}, which this machine lacks: install the extra `train`, "
            "or import where it is installed and share RID_HOME"
        )
    from rid.models.checkpoint import save_defender
    from rid.models.published import HEADS, published_card, read_published
    from rid.training.exporting import add_onnx

    defenders = rid_home().registry()
    defender = read_published(file, budget_levels=budget, heads=heads or HEADS, blocks=blocks)
    assert defender.budget is not None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digest = save_defender(folder, defender, published_card(file, defender.budget, name))
        del defender  # at full size a gigabyte, and the export needs several
        known = defenders.find(digest)
        if known is None or not any(known_file.endswith(".onnx") for known_file in known.config["files"]):
            add_onnx(folder)
        defenders.register(folder)
    entry = defenders.resolve(digest)
    if as_json:
        print(json.dumps({"digest": digest, "location": entry.location, "config": entry.config}))
        return exit_codes.OK
    print(f"{digest}  {entry.name}")
    print(f"    {entry.budgets}; {entry.config['description']}")
    print(f"    rid protect SOURCE TARGET --defender {digest[:12]}     uses it")
    print(f"    rid defenders measure {digest[:12]} --photos FOLDER     holds it against its gates")
    print(f"    rid defenders promote {digest[:12]}                     makes it the default if it passes them")
    return exit_codes.OK


def export(name: str, target: str | None) -> int:
    """Writes a defender as a folder that `--defender` takes anywhere; every file is checked, config.json comes last.

    Raises:
        ValueError: if there is no such defender, one of its files is missing or changed, or the target is not empty.
    """
    from rid.resources.defender_files import CONFIG
    from rid.resources.defender_registry import fetch_defender
    from rid.resources.storage import Storage

    entry = rid_home().registry().resolve(name)
    folder = Storage(target or f"defender-{entry.digest[:12]}")
    if folder.is_folder() and next(folder.list_files(), None) is not None:
        raise InvalidRequest(f"{folder.url} is not empty: choose an empty or a new folder")
    for file, sha in entry.config["files"].items():
        folder.write_bytes(file, fetch_defender(entry.location, entry.digest, {file: sha})[file])
    folder.write_bytes(CONFIG, entry.config_text().encode())
    print(f"defender {entry.name} {entry.digest[:12]} is in {folder.url}")
    return exit_codes.OK

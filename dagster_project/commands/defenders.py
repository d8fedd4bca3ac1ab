"""`rid defenders`: which defenders there are, which one a name means, and how one comes in or goes out."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.settings import rid_home

IMPORT_NEEDS = ("torch", "safetensors", "onnx", "onnxscript")


def list_defenders(*, as_json: bool) -> int:
    """Prints every defender with its aliases, budget and licence."""
    entries = rid_home().registry().entries()
    if as_json:
        print(json.dumps([{"aliases": entry.aliases, "location": entry.location, **entry.config} for entry in entries]))
        return exit_codes.OK
    for entry in entries:
        print(f"{entry.digest[:12]}  {entry.name}  {', '.join(entry.aliases) or '-'}")
        print(f"    {entry.budgets}, default {entry.budget(None)}; {entry.config['licence']}")
        print(f"    {entry.config['description']}")
    return exit_codes.OK


def promote(name: str) -> int:
    """Makes a defender the default."""
    entry = rid_home().registry().promote(name)
    print(f"default is now {entry.name} {entry.digest[:12]}: drops protected by another defender are outdated")
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
    print(f"    rid defenders promote {digest[:12]}                     makes it the default")
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
    place = Storage(target or f"defender-{entry.digest[:12]}")
    if place.is_folder() and next(place.list_files(), None) is not None:
        raise InvalidRequest(f"{place.url} is not empty: choose an empty or a new folder")
    for file, sha in entry.config["files"].items():
        place.write_bytes(file, fetch_defender(entry.location, entry.digest, {file: sha})[file])
    place.write_bytes(CONFIG, entry.config_text().encode())
    print(f"defender {entry.name} {entry.digest[:12]} is in {place.url}")
    return exit_codes.OK

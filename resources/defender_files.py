"""Holds a defender's folder against its config.json: files, digest, budgets, and weights that do something.

Nothing here needs torch: the headers of safetensors files are JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG = "config.json"
FILE_NAME = re.compile(r"^(weights|model)[A-Za-z0-9._-]*\.(safetensors|onnx)$")


class DefenderCorrupt(ValueError):
    """A defender's file is missing or is not what its config.json describes."""


def check_folder(folder: Path) -> dict[str, Any]:
    """Checks every file of a local defender folder, and its digest; returns its config.json.

    Raises:
        DefenderCorrupt: naming what does not match.
    """
    config = config_of(folder)
    for name, sha in config["files"].items():
        file = folder / name
        if not file.is_file() or _sha256_of(file) != sha:
            raise DefenderCorrupt(f"{file} is missing or is not the file that config.json describes")
    return config


def read_config(data: bytes, where: str) -> dict[str, Any]:
    """Parses a config.json and holds its digest against the architecture and the weights that it names.

    Args:
        data: its bytes.
        where: its place, for the message.

    Raises:
        DefenderCorrupt: saying what is wrong.
    """
    try:
        config: dict[str, Any] = json.loads(data)
        files, architecture, digest = config["files"], config["architecture"], config["digest"]
        odd = [name for name in files if not FILE_NAME.match(name)]
    except (ValueError, KeyError, TypeError) as error:
        raise DefenderCorrupt(f"{where} does not describe a defender ({type(error).__name__}: {error})") from error
    if odd:
        raise DefenderCorrupt(
            f"{where} names the file {odd[0]!r}: only weights*.safetensors and model*.onnx are allowed"
        )
    weights = {name: sha for name, sha in files.items() if name.startswith("weights")}
    canonical = json.dumps({"architecture": architecture, "weights": weights}, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(canonical.encode()).hexdigest() != digest:
        raise DefenderCorrupt(f"{where}: its digest does not match its architecture and weights")
    return config


def check_weights(folder: Path, files: dict[str, str]) -> None:
    """Refuses weights of which the network's last layer, or everything, is zero: they change no photo.

    Raises:
        DefenderCorrupt: saying so.
    """
    tensors = [named for name in files if name.endswith(".safetensors") for named in _tensors(folder / name)]
    for what, zero in (
        ("all weights", [zero for _, zero in tensors]),
        ("all weights of the last layer", [zero for name, zero in tensors if name.startswith("linear.")]),
    ):
        if zero and all(zero):
            raise DefenderCorrupt(f"{what} in {folder} are zero: this defender changes no photo and protects none")


def check_budgets(registered: dict[str, Any], given: dict[str, Any]) -> None:
    """Holds the budgets of two configurations of one digest against each other.

    Raises:
        ValueError: if they differ.
    """
    if registered["budget"] != given["budget"]:
        raise ValueError(
            f"the weights of {given.get('name')} are those of defender {registered.get('name')} "
            f"({registered['digest'][:12]}), which is registered for {budget_words(registered)}, not for "
            f"{budget_words(given)}: its runs would change with its budgets; it is left as it is"
        )


def budget_words(config: dict[str, Any]) -> str:
    """The budgets of a configuration, in words."""
    low, high = config["budget"]["min"], config["budget"]["max"]
    return f"a fixed budget of {low} of 255 levels" if low == high else f"budgets of {low} to {high} of 255 levels"


def _tensors(file: Path) -> Iterator[tuple[str, bool]]:
    """Yields the name of each tensor of a safetensors file, and whether all of it is zero."""
    try:
        with file.open("rb") as opened:
            start = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(start))
            for name, tensor in header.items():
                if name != "__metadata__":
                    first, end = tensor["data_offsets"]
                    opened.seek(8 + start + first)
                    yield name, not opened.read(end - first).strip(b"\0")
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise DefenderCorrupt(f"{file} is no safetensors file ({type(error).__name__})") from error


def config_of(folder: Path) -> dict[str, Any]:
    """Reads the config.json of a local folder, checked."""
    return read_config((folder / CONFIG).read_bytes(), str(folder / CONFIG))


def _sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

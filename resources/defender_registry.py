"""The registry of defenders: those registered under RID_HOME, and those that ship with the package.

`defenders/<digest>/` holds config.json, the weights and the ONNX file; `defenders/aliases.json` gives names to
digests. A name becomes one digest when a run is planned, and workers fetch by that digest and check every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rid.resources.defender_files import (
    CONFIG,
    DefenderCorrupt,
    budget_words,
    check_budgets,
    check_folder,
    check_weights,
    config_of,
    read_config,
)
from rid.resources.storage import Storage

DEFAULT_ALIAS = "default"
ALIAS = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
DIGEST_PREFIX = re.compile(r"^[0-9a-f]{6,64}$")
ALIASES = "aliases.json"
DECIDING = ("digest", "architecture", "files", "budget", "working_resolution")


class UnknownDefender(ValueError):
    """No defender has that name; the message lists those that exist."""


@dataclass(frozen=True)
class DefenderEntry:
    """A defender that was found.

    Attributes:
        digest: sha256 that names architecture and weights.
        config: its config.json.
        location: URL of its folder.
        aliases: the names that point to it.
    """

    digest: str
    config: dict[str, Any]
    location: str
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its short name."""
        return str(self.config.get("name", self.digest[:12]))

    def config_text(self) -> str:
        """Its config.json as text."""
        return json.dumps(self.config, indent=2, sort_keys=True) + "\n"

    def budget(self, wanted: int | None) -> int:
        """Returns the budget to use, in 8-bit levels: the wanted one if it was trained for, else its default.

        Raises:
            ValueError: if the wanted budget is outside of what it was trained for.
        """
        span = self.config["budget"]
        if wanted is None:
            return int(span["default"])
        if not span["min"] <= wanted <= span["max"]:
            raise ValueError(
                f"defender {self.name} was trained for {self.budgets}, not {wanted}: choose a budget it was trained "
                "for, or another defender"
            )
        return wanted

    @property
    def budgets(self) -> str:
        """The budgets it was trained for, in words."""
        return budget_words(self.config)

    @property
    def onnx_file(self) -> str:
        """Name of its ONNX file.

        Raises:
            DefenderCorrupt: if it has none yet.
        """
        names = sorted(name for name in self.config["files"] if name.endswith(".onnx"))
        if not names:
            raise DefenderCorrupt(f"defender {self.name} has no ONNX file: materialise defender_onnx first")
        return str(names[0])


class DefenderRegistry:
    """Finds, registers and names defenders."""

    def __init__(self, home: Storage, shipped: Path) -> None:
        """Opens a registry.

        Args:
            home: RID_HOME, a folder or an s3 prefix.
            shipped: the folder that holds the shipped defenders' folders.
        """
        self.storage = home.child("defenders")
        self.shipped = shipped

    def entries(self) -> list[DefenderEntry]:
        """Returns every defender: registered ones first, then shipped ones that are not registered."""
        entries = {}
        for file in self.storage.list_files():
            if file.path.count("/") == 1 and file.path.endswith(f"/{CONFIG}"):
                folder = file.path.partition("/")[0]
                config = read_config(self.storage.read_bytes(file.path), self.storage.uri(file.path))
                entries[config["digest"]] = DefenderEntry(config["digest"], config, self.storage.uri(folder))
        for shipped in self._shipped_folders():
            config = config_of(shipped)
            entries.setdefault(config["digest"], DefenderEntry(config["digest"], config, str(shipped)))
        names = self.aliases()
        return [
            DefenderEntry(
                e.digest, e.config, e.location, tuple(sorted(n for n, digest in names.items() if digest == e.digest))
            )
            for e in entries.values()
        ]

    def aliases(self) -> dict[str, str]:
        """Returns digest by alias; a shipped folder's name is an alias until another defender takes it."""
        shipped = {folder.name: str(config_of(folder)["digest"]) for folder in self._shipped_folders()}
        return {**shipped, **self._recorded_aliases()}

    def resolve(self, name: str) -> DefenderEntry:
        """Finds a defender by alias, by at least six digits of its digest, or by the path of its folder.

        Raises:
            UnknownDefender: if there is none, or several.
            DefenderCorrupt: if a config.json is broken or its digest is not that of what it describes.
        """
        entries = {entry.digest: entry for entry in self.entries()}
        alias = self.aliases().get(name)
        if alias is not None:
            if alias not in entries:
                raise UnknownDefender(
                    f"alias {name!r} points to defender {alias[:12]}, which is gone: promote another one"
                )
            return entries[alias]
        if DIGEST_PREFIX.match(name):
            found = [entry for digest, entry in entries.items() if digest.startswith(name)]
            if len(found) == 1:
                return found[0]
            if found:
                raise UnknownDefender(f"{name!r} begins {len(found)} digests: give more digits")
        folder = Path(name).expanduser()
        if (folder / CONFIG).is_file():
            config = config_of(folder)
            return DefenderEntry(config["digest"], config, str(folder.absolute()))
        names = ", ".join(f"{'/'.join(e.aliases) or e.name} ({e.digest[:12]})" for e in entries.values()) or "none"
        raise UnknownDefender(f"there is no defender {name!r}; registered are: {names}")

    def find(self, digest: str) -> DefenderEntry | None:
        """Returns the defender of exactly this digest, or None if it is not here."""
        return next((entry for entry in self.entries() if entry.digest == digest), None)

    def register(self, folder: Path) -> str:
        """Copies a defender folder into the registry, config.json last, and returns its digest.

        A defender may be registered again, with an ONNX file that it lacked; files that it had are kept.

        Raises:
            DefenderCorrupt: if a file is not what its config.json describes, or its weights change no photo.
            ValueError: if its weights are registered, or ship, with other budgets: the digest does not cover those.
        """
        config = check_folder(folder)
        check_weights(folder, config["files"])
        digest = str(config["digest"])
        known_entry = self.find(digest)
        if known_entry is not None:
            check_budgets(known_entry.config, config)
        target = self.storage.child(digest)
        for name, sha in config["files"].items():
            if not _holds(target, name, sha):
                target.write_file(name, folder / name)

        def merged(old: bytes | None) -> bytes:
            registered = read_config(old, target.uri(CONFIG)) if old is not None else {}
            if registered:
                check_budgets(registered, config)
            files = {**registered.get("files", {}), **config["files"]}
            return (json.dumps({**registered, **config, "files": files}, indent=2, sort_keys=True) + "\n").encode()

        before = target.read_bytes(CONFIG) if target.exists(CONFIG) else None
        if before is None or merged(before) != before:
            target.update_bytes(CONFIG, merged)
        return digest

    def record(self, name: str, field: str, values: dict[str, Any]) -> DefenderEntry:
        """Keeps what was found out about a defender as a field of its config.json; the digest does not cover it.

        A defender that is given by the path of its folder keeps it there. One that ships is registered first.

        Args:
            name: alias, digest or path.
            field: of the configuration.
            values: JSON values.

        Raises:
            UnknownDefender: if there is no such defender.
            ValueError: if the field decides what the defender is.
        """
        if field in DECIDING:
            raise ValueError(f"the field {field!r} decides what a defender is and cannot be recorded")
        entry = self.resolve(name)
        by_path = entry.location not in {known.location for known in self.entries()} or _is_path_of(name, entry)
        if not by_path and not entry.location.startswith(self.storage.url):
            self.register(Path(entry.location))
            entry = self.resolve(entry.digest)

        def changed(old: bytes | None) -> bytes:
            config = read_config(old or b"", entry.location)
            return (json.dumps({**config, field: values}, indent=2, sort_keys=True) + "\n").encode()

        Storage(entry.location).update_bytes(CONFIG, changed)
        return self.resolve(name)

    def promote(self, name: str, alias: str = DEFAULT_ALIAS) -> DefenderEntry:
        """Points an alias to a defender; a defender given by path is registered first.

        Raises:
            UnknownDefender: if there is no such defender.
            ValueError: if the alias is not a name.
        """
        if not ALIAS.match(alias) or DIGEST_PREFIX.match(alias):
            raise ValueError(f"alias {alias!r} is not allowed: use letters, digits, '.', '_' and '-', and no digest")
        entry = self.resolve(name)
        if entry.location not in {other.location for other in self.entries()}:
            self.register(Path(entry.location))

        def pointed(old: bytes | None) -> bytes:
            recorded = {**(json.loads(old) if old else {}), alias: entry.digest}
            return (json.dumps(recorded, indent=2, sort_keys=True) + "\n").encode()

        self.storage.update_bytes(ALIASES, pointed)
        return self.resolve(entry.digest)

    def _recorded_aliases(self) -> dict[str, str]:
        try:
            recorded: dict[str, str] = json.loads(self.storage.read_bytes(ALIASES))
        except FileNotFoundError:
            return {}
        return recorded

    def _shipped_folders(self) -> list[Path]:
        return sorted(file.parent for file in self.shipped.glob(f"*/{CONFIG}")) if self.shipped.is_dir() else []


def fetch_defender(location: str, digest: str, files: dict[str, str]) -> dict[str, bytes]:
    """Reads some of a defender's files by digest, through this machine's cache, and checks each.

    Args:
        location: URL of the defender's folder.
        digest: the defender's.
        files: sha256 by name.

    Raises:
        DefenderCorrupt: naming the file that is missing or changed.
    """
    found = {}
    for name, sha in files.items():
        cached = cache_folder() / digest / f"{sha}-{name}"
        if cached.is_file():
            data = cached.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha:
                found[name] = data
                continue
        try:
            data = Storage(location).read_bytes(name)
        except FileNotFoundError as error:
            raise DefenderCorrupt(f"{name} of defender {digest[:12]} is missing at {location}") from error
        if hashlib.sha256(data).hexdigest() != sha:
            raise DefenderCorrupt(f"{name} of defender {digest[:12]} at {location} is not the file that was registered")
        if location.startswith("s3://"):
            _put_in_cache(cached, data)
        found[name] = data
    return found


def _is_path_of(name: str, entry: DefenderEntry) -> bool:
    """Says whether a defender was asked for by the path of its folder, which no alias or digest begins."""
    return "/" in name and str(Path(name).expanduser().absolute()) == entry.location


def _holds(storage: Storage, name: str, sha: str) -> bool:
    try:
        return hashlib.sha256(storage.read_bytes(name)).hexdigest() == sha
    except FileNotFoundError:
        return False


def cache_folder() -> Path:
    """RID_CACHE, or a folder in the user's cache."""
    return Path(os.environ.get("RID_CACHE") or Path.home() / ".cache" / "rid")


def _put_in_cache(file: Path, data: bytes) -> None:
    """Writes a file that appears whole: workers of one machine fill its cache at the same time."""
    Storage(str(file.parent)).write_bytes(file.name, data)

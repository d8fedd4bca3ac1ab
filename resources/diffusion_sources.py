"""Which frozen diffusion models a run uses: hub ids or folders in the diffusers layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EMBEDDED = "embedded"
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class DiffusionSource:
    """One frozen model.

    Attributes:
        location: a folder with model_index.json, or a hub id such as owner/name.
        revision: branch, tag or commit of a hub model.
        dtype: type of the weights in memory.
        native_resolution: side in pixels; None takes the model's own.
        prompt: the text it is conditioned on.
    """

    location: str
    revision: str | None = None
    dtype: str = "float32"
    native_resolution: int | None = None
    prompt: str = " "

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} of model {self.location} is not one of {', '.join(DTYPES)}")

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder on this machine rather than a hub id."""
        return Path(self.location).is_dir()

    @property
    def name(self) -> str:
        """What reports call it: the folder's name or the hub id."""
        return Path(self.location).name if self.is_folder else self.location

    def digest(self) -> str:
        """sha256 of what decides its outputs: the files of a folder, or id and revision of a hub model."""
        identity = {key: value for key, value in asdict(self).items() if key != "location"}
        content = _folder_digest(Path(self.location)) if self.is_folder else self.location
        return hashlib.sha256(json.dumps([identity, content], sort_keys=True).encode()).hexdigest()


def diffusion_sources(models: Sequence[str | dict[str, Any]], embedded: Path) -> list[DiffusionSource]:
    """Reads a run's list of models.

    Args:
        models: hub ids, folders, "embedded", or objects with `location` and other fields of `DiffusionSource`.
        embedded: the folder of the model that ships with the package.

    Raises:
        ValueError: if the list is empty, or a folder is missing or is no pipeline.
    """
    if not models:
        raise ValueError("no diffusion model is listed: give at least one hub id, folder, or 'embedded'")
    sources = []
    for model in models:
        fields = {"location": model} if isinstance(model, str) else dict(model)
        if fields.get("location") == EMBEDDED:
            fields["location"] = str(embedded)
        source = DiffusionSource(**fields)
        looks_local = source.location.startswith(("/", ".", "~")) or source.location.count("/") != 1
        if looks_local and not (Path(source.location) / "model_index.json").is_file():
            raise ValueError(
                f"the diffusion model {source.location} is no folder with a model_index.json, and no hub id"
            )
        sources.append(source)
    return sources


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in (".json", ".txt", ".safetensors", ".bin"):
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()

"""The frozen diffusion models of a run: hub ids or folders in the diffusers layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

EMBEDDED = "embedded"
DTYPES = ("float32", "float16", "bfloat16")
HUB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")


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
        if self.native_resolution is not None and self.native_resolution < 8:
            raise ValueError(
                f"native_resolution {self.native_resolution} of model {self.location} is not a side in pixels: give "
                "8 or more, or leave it out"
            )

    @property
    def is_folder(self) -> bool:
        """True for a folder on this machine, False for a hub id."""
        return Path(self.location).is_dir()

    @property
    def name(self) -> str:
        """The name in reports: the folder's or the hub id."""
        return Path(self.location).name if self.is_folder else self.location

    def digest(self) -> str:
        """sha256 of what decides its outputs: a folder's files, or id and revision of a hub model (see `pinned`)."""
        identity = {key: value for key, value in asdict(self).items() if key != "location"}
        content = folder_digest(Path(self.location)) if self.is_folder else self.location
        return hashlib.sha256(json.dumps([identity, content], sort_keys=True).encode()).hexdigest()


def diffusion_sources(
    models: Sequence[str | Mapping[str, Any]],
    embedded: Path,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[DiffusionSource]:
    """Reads a run's list of models.

    Args:
        models: folders, hub ids (`owner/name` or `owner/name@revision`), "embedded", or objects with `location` and
            other fields of `DiffusionSource`.
        embedded: the folder of the model that ships with the package.
        options: other fields of `DiffusionSource` of some models, by how those are listed.

    Raises:
        ValueError: if the list is empty, an object has an unknown field, a folder is missing or is no pipeline, or
            options are of a model that is not listed.
    """
    if not models:
        raise ValueError("no diffusion model is listed: give at least one hub id, folder, or 'embedded'")
    options = options or {}
    listed = [model for model in models if isinstance(model, str)]
    for name, fields_of in options.items():
        if name not in listed:
            raise ValueError(f"options are given of {name!r}, which is not among the models: {', '.join(listed)}")
        if not isinstance(fields_of, Mapping):
            raise ValueError(f"options of {name!r} are {fields_of!r}: give an object, such as {{'dtype': 'bfloat16'}}")
    return [
        _source({"location": model, **options.get(model, {})} if isinstance(model, str) else model, embedded)
        for model in models
    ]


def _source(model: Mapping[str, Any], embedded: Path) -> DiffusionSource:
    given = dict(model)
    allowed = [field.name for field in fields(DiffusionSource)]
    unknown = sorted(set(given) - set(allowed))
    if unknown or not isinstance(given.get("location"), str):
        raise ValueError(
            f"a diffusion model needs 'location' and may have {', '.join(allowed[1:])}; given are {', '.join(given)}"
        )
    location = given["location"]
    if location == EMBEDDED:
        given["location"] = str(embedded)
    elif Path(location).expanduser().exists() or location.startswith(("/", ".", "~")):
        given["location"] = str(Path(location).expanduser().absolute())
    else:
        name, _, revision = location.partition("@")
        if not HUB_ID.match(name):
            raise ValueError(
                f"the diffusion model {location!r} is no folder that exists, and no hub id like owner/name"
            )
        return DiffusionSource(**{**given, "location": name, "revision": revision or given.get("revision")})
    source = DiffusionSource(**given)
    _check_pipeline(Path(source.location))
    return source


def _check_pipeline(folder: Path) -> None:
    """Raises ValueError if a folder lacks model_index.json or one of the parts that it names."""
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise ValueError(f"the diffusion model's folder {folder} does not exist")
    if not index.is_file():
        raise ValueError(f"{folder} holds no model_index.json: give the folder of a saved diffusers pipeline")
    try:
        parts: dict[str, Any] = json.loads(index.read_bytes())
        named = [name for name, part in parts.items() if isinstance(part, list) and part and part[0] is not None]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{index} is not the JSON of a diffusers pipeline: save the pipeline again") from error
    missing = [name for name in named if not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which its model_index.json names: copy it whole")


def folder_digest(folder: Path) -> str:
    """sha256 over names and contents of a pipeline's files; a file that did not change is read once a process."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in MODEL_FILES:
            status = file.stat()
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(_file_digest(file, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _file_digest(file: Path, size: int, mtime_ns: int) -> bytes:
    """sha256 of a file, remembered while its size and modification time stay."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()

"""The latent spaces of a run: autoencoders by short name, hub id or folder, in the diffusers layout.

Short names stand for tiny autoencoders of the spaces that people's models use (madebyollin/taesd, MIT). They are looked
for in the folder that RID_LATENT_SPACES names, and on the hub otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rid.resources.frozen.diffusion_sources import DTYPES, EMBEDDED, HUB_ID, folder_digest

FOLDER_VARIABLE = "RID_LATENT_SPACES"
SHORT_NAMES = {
    "sd1": "madebyollin/taesd",
    "sdxl": "madebyollin/taesdxl",
    "sd3": "madebyollin/taesd3",
    "flux1": "madebyollin/taef1",
}
PIPELINE_PART = "vae"
CONFIG = "config.json"


@dataclass(frozen=True)
class SpaceSource:
    """One latent space.

    Attributes:
        location: a folder with an autoencoder's config.json, or of a pipeline with one in `vae/`; or a hub id.
        revision: branch, tag or commit of a hub model.
        dtype: type of the weights in memory.
        short_name: how it is called in reports and cards; None: by its folder or hub id.
    """

    location: str
    revision: str | None = None
    dtype: str = "float32"
    short_name: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} of latent space {self.location} is not one of {', '.join(DTYPES)}")

    @property
    def is_folder(self) -> bool:
        """True for a folder on this machine, False for a hub id."""
        return Path(self.location).is_dir()

    @property
    def name(self) -> str:
        """The name in reports and cards."""
        if self.short_name is not None:
            return self.short_name
        return Path(self.location).name if self.is_folder else self.location

    def digest(self) -> str:
        """sha256 of what decides its latents: the autoencoder's files, or id and revision of a hub model."""
        content = folder_digest(autoencoder_folder(Path(self.location))) if self.is_folder else self.location
        return hashlib.sha256(json.dumps([self.revision, self.dtype, content]).encode()).hexdigest()


def space_sources(
    spaces: Sequence[str | Mapping[str, Any]], embedded: Path, folder: Path | None = None
) -> list[SpaceSource]:
    """Reads a run's list of latent spaces.

    Args:
        spaces: short names (sd1, sdxl, sd3, flux1), folders, hub ids (`owner/name` or `owner/name@revision`),
            "embedded", or objects with `location` and other fields of `SpaceSource`.
        embedded: the folder of the model that ships with the package.
        folder: where folders of the short names lie; None takes that of RID_LATENT_SPACES, if it is set.

    Raises:
        ValueError: if the list is empty or names one space twice, an object has an unknown field, or a folder is
            missing or holds no autoencoder.
    """
    if not spaces:
        raise ValueError(f"no latent space is listed: give at least one of {_allowed()}")
    beside = named_folder() if folder is None else folder
    found = [_source(space, embedded, beside) for space in spaces]
    names = [source.name for source in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the latent space {twice[0]} is listed twice: list each space once, under a name of its own")
    return found


def named_folder() -> Path | None:
    """The folder that RID_LATENT_SPACES names, or None."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def autoencoder_folder(folder: Path) -> Path:
    """Returns where the autoencoder of a folder lies: the folder itself, or the `vae` of a pipeline.

    Raises:
        ValueError: if neither holds one.
    """
    for place in (folder, folder / PIPELINE_PART):
        if (place / CONFIG).is_file():
            return place
    raise ValueError(f"{folder} holds no autoencoder: neither {CONFIG} nor {PIPELINE_PART}/{CONFIG} is there")


def _source(space: str | Mapping[str, Any], embedded: Path, folder: Path | None) -> SpaceSource:
    given = {"location": space} if isinstance(space, str) else dict(space)
    allowed = [field.name for field in fields(SpaceSource)]
    unknown = sorted(set(given) - set(allowed))
    if unknown or not isinstance(given.get("location"), str):
        raise ValueError(
            f"a latent space needs 'location' and may have {', '.join(allowed[1:])}; given are {', '.join(given)}"
        )
    location = given["location"]
    if location == EMBEDDED:
        return _checked({"short_name": EMBEDDED, **given, "location": str(embedded)})
    if location in SHORT_NAMES:
        beside = folder / location if folder is not None else None
        if beside is not None and beside.is_dir():
            return _checked({"short_name": location, **given, "location": str(beside)})
        return SpaceSource(**{"short_name": location, **given, "location": SHORT_NAMES[location]})
    path = Path(location).expanduser()
    if path.exists() or location.startswith(("/", ".", "~")):
        return _checked({**given, "location": str(path.absolute())})
    name, _, revision = location.partition("@")
    if not HUB_ID.match(name):
        raise ValueError(f"the latent space {location!r} is no folder that exists, and none of {_allowed()}")
    return SpaceSource(**{**given, "location": name, "revision": revision or given.get("revision")})


def _checked(given: dict[str, Any]) -> SpaceSource:
    """Returns the source of a folder that holds an autoencoder."""
    source = SpaceSource(**given)
    if not source.is_folder:
        raise ValueError(f"the latent space's folder {source.location} does not exist")
    autoencoder_folder(Path(source.location))
    return source


def _allowed() -> str:
    return f"{', '.join(SHORT_NAMES)}, '{EMBEDDED}', a folder, or a hub id like owner/name"


def spaces_to_json(spaces: Sequence[SpaceSource]) -> str:
    """Serialises latent spaces for a task."""
    return json.dumps([asdict(space) for space in spaces], sort_keys=True)


def spaces_from_json(text: str) -> list[SpaceSource]:
    """Reads what `spaces_to_json` wrote."""
    return [SpaceSource(**given) for given in json.loads(text)]

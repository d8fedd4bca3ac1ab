"""Models of a hub, pinned to the commit that they have now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

COMMIT = re.compile(r"^[0-9a-f]{40}$")
HUB_SECONDS = 20.0  # patience with the hub


class Source(Protocol):
    """A frozen dataclass that names a model."""

    @property
    def location(self) -> str:
        """A folder, or a hub id."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit of a hub model."""

    @property
    def is_folder(self) -> bool:
        """True for a folder on this machine."""


SourceT = TypeVar("SourceT", bound=Source)


def pinned(sources: Sequence[SourceT]) -> list[SourceT]:
    """Returns the sources with the commit of each hub model as its revision: a branch may move, a commit may not.

    Raises:
        ValueError: if the hub cannot be asked and no copy of the model is in its cache here.
    """
    return [_pinned(source) for source in sources]


def _pinned(source: Any) -> Any:
    if source.is_folder or COMMIT.match(source.revision or ""):
        return source
    return replace(source, revision=_commit(source.location, source.revision))


def _commit(location: str, revision: str | None) -> str:
    """Returns the commit of a branch or tag, as the hub says, or as its cache on this machine has it."""
    try:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.file_download import repo_folder_name
    except ImportError as error:
        raise ValueError(f"the hub model {location} needs huggingface_hub: install the extra [train]") from error
    try:
        found = HfApi().model_info(location, revision=revision, timeout=HUB_SECONDS).sha
        if found:
            return str(found)
        reason = "it names no commit"
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = type(error).__name__
    folder = repo_folder_name(repo_id=location, repo_type="model")
    cached = Path(constants.HF_HUB_CACHE) / folder / "refs" / (revision or "main")
    if not cached.is_file():
        raise ValueError(
            f"the hub cannot be asked for the model {location} ({reason}), and its cache here has no copy: check the "
            "name, your network and your access, or give a local folder"
        )
    return cached.read_text(encoding="utf-8").strip()

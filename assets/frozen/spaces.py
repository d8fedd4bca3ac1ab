"""Loading the latent spaces of a task on a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rid.resources.frozen.latent_spaces import SpaceSource

if TYPE_CHECKING:
    import torch

    from rid.models.latent_space import LatentSpace


def load_spaces(sources: Sequence[SpaceSource], *, device: str | torch.device = "auto") -> list[LatentSpace]:
    """Loads and freezes latent spaces.

    Args:
        sources: where they lie.
        device: where to put them; "auto" is a GPU if there is any.

    Raises:
        ValueError: in one sentence, if one of them cannot be loaded.
    """
    import torch

    from rid.models.latent_space import load_latent_space

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return [
        load_latent_space(
            source.location,
            name=source.name,
            revision=source.revision,
            dtype=getattr(torch, source.dtype),
            device=device,
        )
        for source in sources
    ]

"""Loads the frozen diffusion models of a task on a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rid.resources.frozen.diffusion_sources import DiffusionSource

if TYPE_CHECKING:
    import torch

    from rid.models.frozen_diffusion import FrozenDiffusion


def load_models(
    sources: Sequence[DiffusionSource], *, prompt: str | None = None, device: str | torch.device = "auto"
) -> list[FrozenDiffusion]:
    """Loads and freezes models; equal autoencoders are in memory once.

    Args:
        sources: where they lie, and in which type and at which resolution they are used.
        prompt: the text they are conditioned on; None takes each one's own.
        device: where to put them; "auto" is a GPU if there is any.
    """
    import torch

    from rid.models.frozen_diffusion import load_frozen_diffusion, share_autoencoders

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = [
        load_frozen_diffusion(
            source.location,
            name=source.name,
            revision=source.revision,
            dtype=getattr(torch, source.dtype),
            device=device,
            native_resolution=source.native_resolution,
            prompt=source.prompt if prompt is None else prompt,
        )
        for source in sources
    ]
    return share_autoencoders(loaded)

"""Frozen diffusion models of a task: their sources as text, and loading them on a worker."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rid.resources.frozen.diffusion_sources import DiffusionSource


def models_to_json(models: list[DiffusionSource]) -> str:
    """Serialises models for a task."""
    return json.dumps([asdict(model) for model in models], sort_keys=True)


def sources(models_json: str) -> list[DiffusionSource]:
    """Reads what `models_to_json` wrote."""
    return [DiffusionSource(**fields) for fields in json.loads(models_json)]


def load_models(models_json: str, *, prompt: str | None = None) -> list[Any]:
    """Loads and freezes the models of a task, conditioned on `prompt`, or each on its own; equal autoencoders once."""
    import torch

    from rid.models.frozen_diffusion import load_frozen_diffusion, share_autoencoders

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
        for source in sources(models_json)
    ]
    return share_autoencoders(loaded)

"""The launchpad's configuration of teachers and of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dagster import Config
from pydantic import Field

from rid.resources.frozen.diffusion_sources import DiffusionSource, diffusion_sources
from rid.resources.places import Places
from rid.training.teachers.options import METHODS, SET_WISE


class TeacherRunConfig(Config):
    """Which perturbations are precomputed."""

    models: list[str] = Field(default=["embedded"], description="Folders or hub ids of frozen diffusion models.")
    working_resolution: int = Field(default=64, description="Side of the squares: the defender's, or larger for crops.")
    share: float = Field(default=0.1, description="Share of the photos that get a perturbation.")
    method: str = Field(default="advdm", description=f"One of {', '.join(METHODS)}.")
    budget_levels: int = Field(default=8, description="Budget of the perturbations, 1-16 levels.")
    steps: int = Field(default=40, description="Ascent steps a photo.")
    step_levels: float = Field(default=1.0, description="Length of an ascent step, in 8-bit levels.")
    momentum: float = Field(default=0.5, description="Share of the running gradient kept at each step.")
    batch: int = Field(default=8, description="Photos whose gradients are computed at once.")
    prompt: str | None = Field(default=None, description="Text the models are given; empty takes the method's.")
    method_options: dict[str, Any] = Field(
        default={}, description="The method's own: fields of its class in training/teachers/options.py."
    )
    set_by: str = Field(
        default="folder",
        description=f"Who is on a photo: its folder, a column's name, or 'drop': one person ({', '.join(SET_WISE)}).",
    )
    set_size: int = Field(default=8, description="Photos of a person that are perturbed together, at most.")
    seed: int = Field(default=0, description="Of the share and of the noise.")


class DefenderRunConfig(TeacherRunConfig):
    """Which defender is trained; the teacher's fields name the perturbations to learn from."""

    drops: list[str] = Field(description="The drops whose photos are learned from.")
    recipe: str = Field(default="faces_64", description="A function of training/recipes.py.")
    training_steps: int | None = Field(default=None, description="Optimiser steps; empty takes the recipe's.")
    initial: str = Field(default="", description="A defender to start from: alias or digest; empty starts afresh.")
    sample_sheet: int = Field(
        default=0, ge=0, description="Photos shown protected once it is trained; 0: none, since they show people."
    )
    name: str = Field(default="candidate", description="Name of the defender.")


def frozen_models(models: list[str], places: Places) -> list[DiffusionSource]:
    """The models of a run; "embedded" is the one that ships."""
    return diffusion_sources(models, Path(places.weights) / "embedded-64")

"""The launchpad's configuration of teachers and of training, and the requests that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import Config
from pydantic import Field

from rid.assets.teaching.teacher_cache import Selection
from rid.assets.teaching.teacher_run import TeacherRequest
from rid.resources.frozen.diffusion_sources import DiffusionSource, diffusion_sources
from rid.resources.frozen.hub import pinned
from rid.resources.frozen.latent_spaces import SpaceSource, space_sources
from rid.resources.places import Places
from rid.resources.storage import Storage
from rid.training.teachers.options import METHODS, SET_WISE

if TYPE_CHECKING:
    from rid.training.config import TrainingConfig
    from rid.training.teachers.config import TeacherConfig


class TeacherRunConfig(Config):
    """Settings of a teacher: the perturbations that are precomputed."""

    models: list[str] = Field(default=["embedded"], description="Folders or hub ids of frozen diffusion models.")
    model_options: dict[str, Any] = Field(
        default={},
        description="By a model's folder or hub id: dtype (float32, float16, bfloat16), native_resolution in pixels, "
        "revision.",
    )
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
    """Settings of a training; the teacher's fields name the perturbations to learn from."""

    drops: list[str] = Field(description="The drops whose photos are learned from.")
    recipe: str = Field(default="faces_64", description="A function of training/recipes.py.")
    recipe_fields: dict[str, Any] = Field(
        default={}, description="Fields of the recipe to change: steps, precision, any of training/config.py."
    )
    spaces: list[str] = Field(
        default=[],
        description="Latent spaces, for recipes that move photos in them: sd1, sdxl, sd3, flux1, folders or hub ids.",
    )
    initial: str = Field(default="", description="A defender to start from: alias or digest; empty starts afresh.")
    sample_sheet: int = Field(
        default=0, ge=0, description="Photos shown protected once it is trained; 0: none, since they show people."
    )
    processes: int = Field(
        default=1, ge=0, description="Processes of the training, one a GPU of the worker's machine; 0: all its GPUs."
    )
    name: str = Field(default="candidate", description="Name of the defender.")
    licence: str = Field(default="yours: trained on your photos", description="Licence of the weights.")


def frozen_models(models: list[str], places: Places) -> list[DiffusionSource]:
    """The models of a run; "embedded" is the one that ships."""
    return diffusion_sources(models, Path(places.weights) / "embedded-64")


def run_models(config: TeacherRunConfig, places: Places) -> tuple[DiffusionSource, ...]:
    """The models of a run that has to find again what it made of them: with their options, and pinned.

    Raises:
        ValueError: if one cannot be used, or the hub cannot be asked for it.
    """
    return tuple(pinned(diffusion_sources(config.models, Path(places.weights) / "embedded-64", config.model_options)))


def run_spaces(config: DefenderRunConfig, places: Places) -> tuple[SpaceSource, ...]:
    """The latent spaces of a run, pinned.

    Raises:
        ValueError: if one cannot be used, or the hub cannot be asked for it.
    """
    return tuple(pinned(space_sources(config.spaces, Path(places.weights) / "embedded-64"))) if config.spaces else ()


def teacher_config(config: TeacherRunConfig) -> TeacherConfig:
    """The teacher.

    Raises:
        ValueError: if the method or an option is unknown, or a number is out of range.
    """
    from rid.training.teachers.config import TeacherConfig

    given = {
        "method": config.method,
        "budget_levels": config.budget_levels,
        "steps": config.steps,
        "step_levels": config.step_levels,
        "momentum": config.momentum,
        "batch": config.batch,
        "prompt": config.prompt,
        "seed": config.seed,
        "options": config.method_options,
    }
    return TeacherConfig.from_json(given)


def teacher_request(config: TeacherRunConfig, places: Places) -> TeacherRequest:
    """Which perturbations; how people are told apart matters only to a method that learns people."""
    set_wise = config.method in SET_WISE
    set_by, set_size = (config.set_by, config.set_size) if set_wise else ("", 1)
    return TeacherRequest(
        home=Storage(places.home),
        teacher=teacher_config(config),
        models=run_models(config, places),
        side=config.working_resolution,
        selection=Selection(config.share, config.seed, set_by, set_size),
    )


def training_config(config: DefenderRunConfig) -> TrainingConfig:
    """The recipe with the fields that the run changes.

    Raises:
        ValueError: if the recipe or a field is unknown, or a value is not allowed.
    """
    from rid.training.recipes import recipe

    return recipe(config.recipe, **{"seed": config.seed, **config.recipe_fields})

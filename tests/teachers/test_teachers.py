"""The effect of teachers on photos a trained model has not seen, under fresh noise and time steps."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quick_pipelines import photo_crops

from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from rid.training.batches import pixels_to_signed
from rid.training.evaluation.effect.controls import gaussian_control, sign_control
from rid.training.evaluation.effect.diffusion_loss import diffusion_losses_by_time
from rid.training.evaluation.statistics import bootstrap_mean
from rid.training.noise import StepNoise
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.methods import TEACHERS, precompute_perturbations
from rid.training.teachers.options import METHODS, SET_WISE, MetaCloakOptions
from rid.training.teachers.targets import encode_target
from rid.training.teachers.transforms import random_transform

EMBEDDED = Path(__file__).parents[2] / "models" / "weights" / "embedded-64"
QUICK = {"training_steps": 2, "training_batch": 4, "learning_rate": 1e-4}
OPTIONS: dict[str, dict[str, Any]] = {
    "fsmg": {**QUICK, "training_steps": 6},
    "aspl": {**QUICK, "ascent_steps": 6},
    "simac": {**QUICK, "ascent_steps": 6, "candidates": 2, "radius": 150, "remaining": 500},
    "metacloak": {**QUICK, "ascent_steps": 4, "pool": 2, "stagger": 4, "unroll": 2},
}
RAISING = [("encoder", {"target": "none"}), ("mist", {"target": "none"})] + [
    (method, OPTIONS.get(method, {})) for method in METHODS if method not in ("encoder", "mist", "sds_minus")
]
UNTARGETED = pytest.mark.parametrize(("method", "options"), RAISING, ids=[method for method, _ in RAISING])


@cache
def embedded(prompt: str = " ") -> FrozenDiffusion:
    return load_frozen_diffusion(str(EMBEDDED), prompt=prompt)


def teacher(method: str, options: dict[str, Any], **changes: Any) -> TeacherConfig:
    fields = {"method": method, "budget_levels": 16, "steps": 12, "step_levels": 2.0, "batch": 4}
    return TeacherConfig.from_json({**fields, "options": options, **changes})


def perturbed(
    pixels: NDArray[np.uint8], models: Sequence[FrozenDiffusion], config: TeacherConfig
) -> dict[str, NDArray[np.uint8]]:
    """The photos with the teacher's perturbation, and with both controls of its norm."""
    moved = precompute_perturbations(pixels, models, config).astype(np.int16)
    versions = {"teacher": pixels + moved}
    for name, control in (("gaussian", gaussian_control), ("signs", sign_control)):
        versions[name] = pixels + np.stack([control(pixels[i], moved[i], 50 + i) for i in range(len(pixels))])
    return {name: version.astype(np.uint8) for name, version in versions.items()}


def loss_rises(
    model: FrozenDiffusion, pixels: NDArray[np.uint8], versions: dict[str, NDArray[np.uint8]], draws: int = 9
) -> dict[str, NDArray[np.float64]]:
    """By version, what it adds to each photo's diffusion loss at low, middle and high time steps: (3, B)."""
    clean = diffusion_losses_by_time(model, pixels, draws=draws, seed=991)
    return {
        name: (diffusion_losses_by_time(model, version, draws=draws, seed=991) - clean)
        .reshape(3, -1, len(pixels))
        .mean(axis=1)
        for name, version in versions.items()
    }


def margin(rises: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """By how much each photo's rise exceeds that of the stronger control, (3, B)."""
    return rises["teacher"] - np.maximum(rises["gaussian"], rises["signs"])


@UNTARGETED
def test_it_raises_the_diffusion_loss_more_than_noise_at_every_time(method: str, options: dict[str, Any]) -> None:
    pixels, config = photo_crops(4, seed=99), teacher(method, options)
    rises = loss_rises(embedded(), pixels, perturbed(pixels, [embedded(config.text)], config))
    controls = np.maximum(abs(rises["gaussian"]).mean(axis=1), abs(rises["signs"]).mean(axis=1))  # (3,)
    assert np.all(rises["teacher"].mean(axis=1) > 2 * controls), rises
    assert np.all(margin(rises).mean(axis=0) > 0), rises  # for each photo


def test_sds_minus_lowers_it() -> None:
    pixels = photo_crops(4, seed=99)
    rises = loss_rises(embedded(), pixels, perturbed(pixels, [embedded()], teacher("sds_minus", {})))
    lowered = -rises["teacher"] - np.maximum(-rises["gaussian"], -rises["signs"])
    assert np.all(lowered.mean(axis=1) > 0) and np.all(lowered.mean(axis=0) > 0), rises


@pytest.mark.parametrize("method", ["encoder", "mist"])
@pytest.mark.parametrize("target", ["none", "grey", "texture"])
def test_latents_move_as_they_should(method: str, target: str) -> None:
    """Away from the photo's own more than noise moves them, or towards the target, which noise does not."""
    pixels, model = photo_crops(4, seed=98), embedded()
    versions = perturbed(pixels, [model], teacher(method, {"target": target}, steps=10))
    own = model.encode(pixels_to_signed(pixels))  # (B, C, h, w)
    reference = own if target == "none" else encode_target(model, target)
    distance = {
        name: (model.encode(pixels_to_signed(version)) - reference).square().mean(dim=(1, 2, 3)).numpy()
        for name, version in ({"clean": pixels} | versions).items()
    }
    if target == "none":
        assert np.all(distance["teacher"] > 3 * np.maximum(distance["gaussian"], distance["signs"]))
    else:
        nearer = {name: distance["clean"] - value for name, value in distance.items()}
        assert np.all(nearer["teacher"] > 0.02 * distance["clean"])
        assert np.all(nearer["teacher"] > 2 * np.maximum(nearer["gaussian"], nearer["signs"]))


@pytest.mark.slow
def test_mist_adds_the_diffusion_loss_to_the_encoder_attack() -> None:
    pixels, model = photo_crops(4, seed=97), embedded()
    versions = {
        "mist": perturbed(pixels, [model], teacher("mist", {"semantic_weight": 5.0}))["teacher"],
        "encoder": perturbed(pixels, [model], teacher("encoder", {"target": "texture"}))["teacher"],
    }
    rises = loss_rises(model, pixels, versions)
    assert np.all((rises["mist"] - rises["encoder"]).mean(axis=0) > 0), rises


def test_an_ensemble_of_both_prediction_types_is_raised_together(pipelines: dict[str, Path]) -> None:
    models = [load_frozen_diffusion(str(folder)) for folder in pipelines.values()]
    pixels = photo_crops(4, seed=96)
    versions = perturbed(pixels, models, teacher("advdm", {}, steps=24))
    for model in models:
        assert margin(loss_rises(model, pixels, versions, draws=24)).mean() > 0


@pytest.mark.slow
def test_metacloak_survives_transformations_better_than_advdm() -> None:
    """Its lead over noise under fresh transformations, the same for every version of a photo."""
    pixels, leads = photo_crops(6, seed=95), {}
    for method in ("metacloak", "advdm"):
        config = teacher(method, OPTIONS.get(method, {}), steps=64, step_levels=1.0, momentum=0.9, batch=6)
        leads[method] = lead_under_transformations(pixels, perturbed(pixels, [embedded(config.text)], config))
    assert np.all(leads["metacloak"] > 0), leads
    assert leads["metacloak"].mean() > leads["advdm"].mean(), leads


def lead_under_transformations(
    pixels: NDArray[np.uint8], versions: dict[str, NDArray[np.uint8]]
) -> NDArray[np.float64]:
    """At low, middle and high time steps, (3,)."""
    leads = [
        margin(
            loss_rises(
                embedded(),
                transformed(pixels, seed),
                {name: transformed(version, seed) for name, version in versions.items()},
            )
        )
        for seed in range(4)
    ]
    return np.mean(leads, axis=(0, 2))


def transformed(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The photos after one transformation each, the same for one place and seed."""
    image = random_transform(pixels_to_signed(pixels), MetaCloakOptions(), StepNoise(seed, 0, range(len(pixels))))
    return ((image + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()


@pytest.mark.slow
@UNTARGETED
def test_the_rise_over_noise_is_significant(method: str, options: dict[str, Any]) -> None:
    """At the method's budget of 6 levels, paired over 12 photos, at low, middle and high time steps apart."""
    pixels = photo_crops(12, seed=94)
    config = teacher(method, options, budget_levels=6, steps=16, step_levels=1.0, batch=6)
    sets = [pixels[:6], pixels[6:]] if method in SET_WISE else [pixels]
    parts = [perturbed(part, [embedded(config.text)], config) for part in sets]
    versions = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for at_time in margin(loss_rises(embedded(), pixels, versions, draws=12)):
        assert bootstrap_mean(at_time).low > 0


def test_every_teacher_is_named_once() -> None:
    assert tuple(TEACHERS) == METHODS

"""The core that teachers share: budget, seeds, batches, ensembles, checkpoints, configurations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teacher_runs import Kept, perturb_and_die, small_config, small_models, small_photos
from training_runs import in_child, random_model

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.checkpoint import CheckpointFile, unpack
from rid.training.teachers.config import PERSON_PROMPT, TeacherConfig
from rid.training.teachers.methods import TEACHERS, precompute_perturbations
from rid.training.teachers.options import METHODS, SET_WISE, EncoderOptions
from rid.training.teachers.pgd import Ascent, Progress, TeacherDiverged, ensemble_gradient, run_teacher
from rid.training.teachers.photos import Photos

PHOTO_WISE = tuple(method for method in METHODS if method not in SET_WISE)
UNTARGETED = {"encoder": {"target": "none"}, "mist": {"target": "none"}}


@pytest.mark.parametrize("method", METHODS)
def test_the_budget_holds_in_whole_levels_and_is_used(method: str) -> None:
    pixels = small_photos()
    made = precompute_perturbations(pixels, small_models(2), small_config(method))
    assert made.dtype == np.int8 and made.shape == pixels.shape
    assert np.abs(made).max() == 5
    protected = pixels.astype(np.int16) + made
    assert protected.min() >= 0 and protected.max() <= 255
    assert np.count_nonzero(made) > 0.5 * made.size


@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_not_lost(method: str) -> None:
    made = precompute_perturbations(small_photos(), small_models(), small_config(method, steps=1, step_levels=2.0))
    assert np.count_nonzero(made) > 0.5 * made.size


def test_no_perturbation_is_zero_for_a_saddle_point() -> None:
    """The distance from a photo's own latents has no slope where it is zero."""
    for method, options in (("encoder", {"target": "none"}), ("mist", {"target": "none", "semantic_weight": 0.0})):
        made = precompute_perturbations(small_photos(), small_models(), small_config(method, options=options))
        assert np.count_nonzero(made) > 0.5 * made.size


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_everything(method: str) -> None:
    options = {"options": UNTARGETED[method]} if method in UNTARGETED else {}
    first, again, other = (
        precompute_perturbations(small_photos(), small_models(), small_config(method, seed=seed, **options))
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", PHOTO_WISE)
def test_a_photos_result_does_not_depend_on_its_neighbours(method: str) -> None:
    """Nor on its place, nor on whether the batch is full."""
    pixels, config = small_photos(5), small_config(method, batch=3)
    whole = precompute_perturbations(pixels, small_models(), config)
    reordered = precompute_perturbations(pixels[[4, 0, 2]], small_models(), config)
    alone = precompute_perturbations(pixels[1:2], small_models(), config)
    assert np.array_equal(reordered, whole[[4, 0, 2]])
    assert np.array_equal(alone, whole[1:2])


@pytest.mark.parametrize("method", SET_WISE)
def test_a_sets_result_depends_on_the_set(method: str) -> None:
    pixels, config = small_photos(3), small_config(method)
    whole = precompute_perturbations(pixels, small_models(), config)
    part = precompute_perturbations(pixels[:2], small_models(), config)
    assert not np.array_equal(part, whole[:2])


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_with_equal_levels(method: str) -> None:
    """From each of its checkpoints; what is trained or searched at the start is not done again."""
    config, kept = small_config(method), Kept()
    whole = precompute_perturbations(small_photos(), small_models(2), config, checkpoint=kept, checkpoint_seconds=0)
    steps = [unpack(blob)[2] for blob in kept.blobs]
    assert steps and steps == sorted(set(steps)) and steps[-1] < config.steps
    for blob, step in zip(kept.blobs, steps, strict=True):
        teacher = TEACHERS[method](small_models(2), config)
        teacher.begin = lambda photos: pytest.fail("a resumed run began anew")  # type: ignore[method-assign]
        seen: list[Progress] = []
        resumed = run_teacher(small_photos(), teacher, checkpoint=Kept(blob), on_step=seen.append)
        assert [progress.step for progress in seen] == list(range(step + 1, config.steps + 1))
        assert np.array_equal(resumed, whole)


@pytest.mark.parametrize(("method", "kept_steps"), [("advdm", 3), ("aspl", 2)])
def test_a_killed_run_goes_on(method: str, kept_steps: int, tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    assert in_child(perturb_and_die, method, str(file), 3) == -9
    assert 0 < unpack(file.read_bytes())[2] <= kept_steps  # a slow write puts the next one off
    resumed = precompute_perturbations(
        small_photos(), small_models(), small_config(method), checkpoint=CheckpointFile(file)
    )
    assert np.array_equal(resumed, precompute_perturbations(small_photos(), small_models(), small_config(method)))


def test_checkpoints_wait_their_turn() -> None:
    kept = Kept()
    precompute_perturbations(small_photos(), small_models(), small_config("advdm"), checkpoint=kept)
    assert kept.blobs == []  # the run was over before the first was due


@pytest.mark.parametrize("method", METHODS)
def test_frozen_models_are_left_as_they_are(method: str) -> None:
    models = small_models(2)
    before = [{name: value.clone() for name, value in model.unet.state_dict().items()} for model in models]
    precompute_perturbations(small_photos(2), models, small_config(method, steps=2))
    for model, weights in zip(models, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in model.unet.state_dict().items())
        assert not any(
            p.requires_grad or p.grad is not None for p in (*model.unet.parameters(), *model.vae.parameters())
        )


def test_the_ensembles_gradient_is_that_of_the_mean_loss() -> None:
    """Of models with one autoencoder, another autoencoder, another resolution; held against plain autograd."""
    models = [*small_models(2), random_model(vae_seed=3, seed=5), random_model(native=48, seed=6)]
    config, photos = small_config("advdm", batch=4), Photos(small_photos(4), torch.device("cpu"))
    teacher = TEACHERS["advdm"](models, config)
    encodings = [count_calls(model) for model in {id(model.vae): model for model in models}.values()]
    ascent = Ascent(photos, config, random_start=True)
    gradient, objective = ensemble_gradient(teacher, ascent)
    assert sum(map(len, encodings)) == 3  # the first two models share one

    noise = photos.noise(config.seed, "ascent", 0, range(4))
    delta = ascent.delta.clone().requires_grad_(True)
    latents: dict[Any, torch.Tensor] = {}
    losses = []
    for model in models:
        if model.encoding_key not in latents:
            image = model.resize((photos.levels + delta) / 127.5 - 1)
            latents[model.encoding_key] = model.encode_with(image, noise.normal(model.latent_shape))
        t, n = noise.integers(0, 1000), noise.normal(model.latent_shape)
        z = latents[model.encoding_key]
        losses.append((model.predict_noise(model.schedule.add_noise(z, n, t), t) - n).square().mean(dim=(1, 2, 3)))
    mean = torch.stack(losses).mean(dim=0)
    (expected,) = torch.autograd.grad(mean.sum(), delta)
    scale = gradient.norm() / expected.norm()
    torch.testing.assert_close(gradient / scale, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
    assert objective == pytest.approx(mean.mean().item(), rel=1e-4)


def test_half_precision_gives_the_same_directions() -> None:
    photos, gradients = Photos(small_photos(2), torch.device("cpu")), []
    for dtype in (torch.float32, torch.float16):
        model = random_model()
        cast = replace(
            model, vae=model.vae.to(dtype), unet=model.unet.to(dtype), prompt_states=model.prompt_states.to(dtype)
        )
        config = small_config("advdm", batch=2)
        gradients.append(ensemble_gradient(TEACHERS["advdm"]([cast], config), Ascent(photos, config, True))[0])
    assert torch.nn.functional.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.999
    assert (gradients[1] == 0).float().mean() < 0.01


def count_calls(model: FrozenDiffusion) -> list[int]:
    calls: list[int] = []
    model.vae.encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr,operator]
    return calls


def test_momentum_carries_a_direction_on() -> None:
    photos = Photos(np.full((1, 8, 8, 3), 128, np.uint8), torch.device("cpu"))
    for momentum, expected in ((0.0, 1.0), (0.9, 3.0)):
        ascent = Ascent(photos, small_config("advdm", step_levels=1.0, momentum=momentum), random_start=False)
        for slope in (1.0, 5.0, -3.0):  # a gradient's length does not count, its direction does
            ascent.climb(torch.full_like(photos.levels, slope))
        assert ascent.delta.unique().tolist() == [expected]
        assert ascent.step == 3


def test_the_objective_rises_and_is_reported() -> None:
    reports: list[Progress] = []
    config = small_config("encoder", steps=12, budget_levels=16)
    precompute_perturbations(small_photos(), small_models(), config, on_step=reports.append)
    assert [report.step for report in reports] == list(range(1, 13)) and reports[0].steps == 12
    assert reports[-1].objective > reports[0].objective


def test_a_gradient_that_is_not_finite_stops_with_a_sentence() -> None:
    model = random_model()
    broken = replace(model, scaling_factor=float("nan"))
    with pytest.raises(TeacherDiverged, match="'advdm' stopped being finite at step 0"):
        precompute_perturbations(small_photos(), [broken], small_config("advdm"))


def test_photos_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, S, S, 3\) uint8"):
        precompute_perturbations(small_photos().astype(np.float32), small_models(), small_config("advdm"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"method": "glaze"}, "choose one of advdm, fsmg, aspl, encoder, mist, sds_minus, sds_plus, simac, metacloak"),
        ({"method": "mist", "options": {"taget": "grey"}}, "'taget': allowed are target, semantic_weight"),
        ({"method": "advdm", "options": {"target": "grey"}}, "'target': allowed are none"),
        ({"method": "encoder", "options": {"target": "cat"}}, "choose one of none, grey, texture"),
        ({"method": "aspl", "options": {"ascent_steps": 0}}, "ascent_steps must be at least 1"),
        ({"method": "simac", "options": {"remaining": 1}}, "remaining at least candidates"),
        ({"method": "metacloak", "options": {"crop": 0.0}}, r"crop in \(0, 1\]"),
        ({"step": 3}, "no field 'step': allowed are method"),
        ({"budget_levels": 17}, "from 1 to 16"),
        ({"momentum": 1.0}, "momentum in"),
    ],
)
def test_a_wrong_configuration_gives_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TeacherConfig.from_json(fields)


@pytest.mark.parametrize("method", METHODS)
def test_a_configuration_is_read_back_and_named_by_content(method: str) -> None:
    config = small_config(method)
    assert TeacherConfig.from_json(config.to_json()).digest() == config.digest()
    assert replace(config, seed=1).digest() != config.digest()
    assert config.text == (PERSON_PROMPT if method in SET_WISE else " ")
    with pytest.raises(ValueError, match="takes"):
        TeacherConfig(method="advdm", options=EncoderOptions())

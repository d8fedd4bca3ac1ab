"""Methods that train a surrogate or choose time steps: what is trained on what, and when."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_pipelines import photo_crops
from teacher_runs import small_config, small_models, small_photos
from training_runs import SIDE, random_model

from rid.models.frozen_diffusion import load_frozen_diffusion
from rid.training.batches import pixels_to_signed
from rid.training.differentiable_blur import blur
from rid.training.noise import StepNoise
from rid.training.teachers.methods import TEACHERS
from rid.training.teachers.options import MetaCloakOptions, SimacOptions, SurrogateOptions
from rid.training.teachers.pgd import Sample, run_teacher
from rid.training.teachers.photos import Photos
from rid.training.teachers.sds import SdsMinus, SdsPlus
from rid.training.teachers.simac import Simac, decoder_features, pick_allowed
from rid.training.teachers.surrogate import Lesson, Surrogate, packed_weights, unpacked_weights
from rid.training.teachers.timestep_search import drop_least, gradient_sizes, informative_timesteps
from rid.training.teachers.transforms import random_transform, resample

CPU = torch.device("cpu")


def lessons_of(
    monkeypatch: pytest.MonkeyPatch, method: str, steps: int, **options: Any
) -> list[tuple[str, int, int, float, str]]:
    """Runs a method, and returns its lessons: purpose, first step, steps, distance from clean, weights before."""
    pixels, taught = small_photos(), []
    clean, real = pixels_to_signed(pixels), Surrogate.fine_tune

    def fine_tune(self: Surrogate, photos: Photos, image: torch.Tensor, lesson: Lesson) -> None:
        moved = float((image - clean).abs().max() * 127.5)
        taught.append((lesson.purpose, lesson.first_step, lesson.steps, round(moved, 3), fingerprint(self)))
        real(self, photos, image, lesson)

    monkeypatch.setattr(Surrogate, "fine_tune", fine_tune)
    config = small_config(method, steps=steps, options=options)
    run_teacher(pixels, TEACHERS[method](small_models(), config))
    return taught


def fingerprint(surrogate: Surrogate) -> str:
    return f"{sum(value.double().sum() for value in surrogate.weights().values()):.12f}"


def test_fsmg_learns_the_clean_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = lessons_of(monkeypatch, "fsmg", 3, training_steps=4, learning_rate=1e-3)
    assert [lesson[:4] for lesson in lessons] == [("clean", 0, 4, 0.0)]


def test_aspl_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clone on clean, ascent, surrogate on the protected set of that moment; clones start from the surrogate."""
    lessons = lessons_of(monkeypatch, "aspl", 6, training_steps=2, ascent_steps=2, learning_rate=1e-3)
    assert [lesson[:3] for lesson in lessons] == [
        ("clean", 0, 2),
        ("protected", 0, 2),
        ("clean", 2, 2),
        ("protected", 2, 2),
        ("clean", 4, 2),
    ]
    moved = [lesson[3] for lesson in lessons]
    assert moved[0] == moved[2] == moved[4] == 0
    assert moved[1] == pytest.approx(3.2, abs=1e-2) and moved[3] == pytest.approx(5, abs=1e-2)  # 2 steps, then budget
    weights = [lesson[4] for lesson in lessons]
    assert weights[1] == weights[0]  # the surrogate is as it was before its clone learned
    assert len({weights[0], weights[2], weights[4]}) == 3  # and has learned between rounds


def test_metacloak_takes_its_pool_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = lessons_of(
        monkeypatch, "metacloak", 8, training_steps=1, ascent_steps=1, pool=2, stagger=3, unroll=2, learning_rate=1e-3
    )
    assert lessons[0][:4] == ("clean", 0, 3, 0.0)  # the second member's stage
    protected = lessons[1:]
    assert [lesson[:3] for lesson in protected] == [("protected", turn, 1) for turn in range(8)]
    weights = [lesson[4] for lesson in protected]
    assert weights[0] == weights[4] == lessons[0][4]  # the first member starts from the frozen weights each time
    assert weights[2] == weights[6] != weights[0]
    assert len(set(weights)) == 6  # within a turn it has gone on learning
    assert all(lesson[3] > 5 for lesson in protected)  # what it sees is transformed, beyond the budget


def test_a_surrogate_learns_the_set(pipelines: dict[str, Path]) -> None:
    """Fine-tuning lowers the loss of either prediction type on the set, under draws it was not trained with."""
    photos = Photos(photo_crops(2, seed=90), CPU)
    for folder in pipelines.values():
        options = SurrogateOptions(training_batch=2, learning_rate=3e-4)
        surrogate = Surrogate(load_frozen_diffusion(str(folder)), options, seed=0)
        losses = []
        for _ in range(2):
            with torch.no_grad():
                parts = [surrogate._loss(photos, photos.image(), [0, 1], step, "judged") for step in range(8)]
            losses.append(float(torch.stack(parts).mean()))
            surrogate.fine_tune(photos, photos.image(), Lesson("clean", 0, 15))
        assert losses[1] < losses[0]


def test_a_surrogate_is_in_float32_whatever_its_model() -> None:
    model = random_model()
    halves = {name: copy.deepcopy(getattr(model, name)).bfloat16() for name in ("vae", "unet")}
    half = replace(model, **halves, prompt_states=model.prompt_states.bfloat16())
    teacher = TEACHERS["fsmg"]([half], small_config("fsmg", steps=2))
    made = run_teacher(small_photos(), teacher)
    assert np.abs(made).max() > 0
    (surrogate,) = teacher.surrogates  # type: ignore[attr-defined]
    assert {value.dtype for value in surrogate.weights().values()} == {torch.float32}
    assert next(half.unet.parameters()).dtype == torch.bfloat16
    before = half.unet.float().state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in surrogate.weights().items())


def test_weights_of_several_surrogates_are_told_apart() -> None:
    parts = [Surrogate(model, SurrogateOptions(), seed=0).weights() for model in small_models(2)]
    for back, part in zip(unpacked_weights(packed_weights(parts), 2), parts, strict=True):
        assert back.keys() == part.keys()
        assert all(torch.equal(back[name], value) for name, value in part.items())


def test_the_sds_gradient_has_no_jacobian_of_the_unet() -> None:
    """In z_t it is w(t) (eps_theta - n) over the number of elements; z has a further sqrt(abar_t)."""
    model, config = small_models(2)[1], small_config("sds_plus")
    torch.manual_seed(0)
    latents, noise = torch.randn(2, *model.latent_shape, requires_grad=True), torch.randn(2, *model.latent_shape)
    t = torch.tensor([80, 700])
    gradients = {}
    for kind in (SdsPlus, SdsMinus):
        sample = Sample(0, model, [0, 1], latents, t, noise)
        (gradients[kind],) = torch.autograd.grad(kind([model], config).objective(sample).sum(), latents)
    abar = model.schedule.at(t).float()
    predicted = model.predict_noise(model.schedule.add_noise(latents.detach(), noise, t), t)
    expected = abar.sqrt() * (1 - abar) * (predicted - noise) / latents[0].numel()
    torch.testing.assert_close(gradients[SdsPlus], expected.detach(), rtol=1e-4, atol=1e-7)
    assert torch.equal(gradients[SdsMinus], -gradients[SdsPlus])


def test_simac_drops_the_neighbourhood_of_the_least_gradient() -> None:
    options = SimacOptions(radius=20, remaining=100)
    allowed = torch.ones(3, 1000, dtype=torch.bool)
    allowed[1, 100:] = False  # done: 100 are left
    candidates, sizes = torch.tensor([[10, 500], [10, 50], [500, 505]]), torch.tensor([[1.0, 2], [1, 2], [1, 2]])
    left = drop_least(allowed, candidates, sizes, options)
    assert left[0].nonzero().flatten().tolist() == list(range(31, 1000))
    assert torch.equal(left[1], allowed[1])
    assert left[2].nonzero().flatten().tolist() == [*range(480), 505, *range(521, 1000)]  # the best always stays


def test_simac_finds_time_steps_with_larger_gradients(pipelines: dict[str, Path]) -> None:
    """For most photos the search leaves time steps whose gradient is larger than an average one's."""
    model, photos = load_frozen_diffusion(str(pipelines["v_prediction"])), Photos(photo_crops(4, seed=91), CPU)
    options = SimacOptions(candidates=4, radius=60, remaining=250)
    allowed = informative_timesteps(model, photos, options, batch=4, seed=0)
    assert allowed.shape == (4, 1000) and allowed.sum(dim=1).max() <= 250 and allowed.any(dim=1).all()
    grid = torch.arange(20, 1000, 40)
    noise = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(5))
    sizes = gradient_sizes(model, photos.image(), grid.expand(4, -1), noise)  # (4, 25)
    chosen = torch.stack([sizes[i, allowed[i, grid]].mean() for i in range(4)])
    assert (chosen > sizes.mean(dim=1)).float().mean() > 0.5


def test_only_allowed_time_steps_are_drawn() -> None:
    allowed = torch.zeros(2, 10, dtype=torch.bool)
    allowed[0, [2, 5, 7]] = allowed[1, 9] = True
    drawn = {tuple(pick_allowed(allowed, torch.tensor([u, u])).tolist()) for u in np.linspace(0, 0.9999, 50)}
    assert drawn == {(2, 9), (5, 9), (7, 9)}


def test_simac_adds_the_feature_distance() -> None:
    model, photos = random_model(), Photos(small_photos(2), CPU)
    values = []
    for weight in (0.0, 1.0, 2.0):
        options = {"feature_weight": weight, "candidates": 2, "radius": 250, "remaining": 600}
        teacher = Simac([model], small_config("simac", options=options))
        teacher.prepare(photos)
        torch.manual_seed(0)
        latents = teacher.clean[0] + torch.randn_like(teacher.clean[0])
        sample = Sample(0, model, [0, 1], latents, torch.tensor([50, 50]), torch.randn_like(latents))
        values.append(teacher.objective(sample).detach())
    assert (values[1] > values[0]).all()
    torch.testing.assert_close(values[2] - values[0], 2 * (values[1] - values[0]))
    with decoder_features(model.unet) as features:
        model.predict_noise(latents, torch.tensor([50, 50]))
    assert [tuple(feature.shape[-2:]) for feature in features] == [model.latent_shape[1:]] * 2
    assert not model.unet.up_blocks[-1].resnets[0]._forward_hooks  # type: ignore[index,union-attr]


def still(image: torch.Tensor, **changes: torch.Tensor) -> torch.Tensor:
    """Resamples without moving anything but what is given."""
    B = len(image)
    fields = {
        "mirrored": torch.zeros(B, dtype=torch.bool),
        "angle": torch.zeros(B),
        "kept": torch.ones(B),
        "centre": torch.zeros(B, 2),
    }
    return resample(image, **(fields | changes))


def test_resampling_mirrors_turns_and_crops() -> None:
    image = pixels_to_signed(photo_crops(2, side=SIDE))
    torch.testing.assert_close(still(image), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(still(image, mirrored=torch.ones(2, dtype=torch.bool)), image.flip(3), atol=1e-5, rtol=0)
    turned = still(image, angle=torch.full((2,), torch.pi / 2))
    torch.testing.assert_close(turned, image.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    corner = still(image, kept=torch.full((2,), 0.5), centre=torch.full((2, 2), -0.5))
    small = torch.nn.functional.avg_pool2d(corner, 2)
    torch.testing.assert_close(small, image[:, :, : SIDE // 2, : SIDE // 2], atol=0.35, rtol=0)


def test_blur_keeps_the_mean_and_leaves_sharp_photos_sharp() -> None:
    image = pixels_to_signed(photo_crops(2, side=SIDE))
    blurred = blur(image, torch.tensor([0.0, 1.0]), 1.0)
    torch.testing.assert_close(blurred[0], image[0], atol=1e-5, rtol=0)
    assert blurred[1].std() < image[1].std()
    torch.testing.assert_close(blur(torch.ones(1, 3, 9, 9), torch.tensor([2.0]), 2.0), torch.ones(1, 3, 9, 9))


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_transformations_carry_a_gradient_to_every_photo(draw: int) -> None:
    image = pixels_to_signed(photo_crops(3, side=SIDE)).requires_grad_(True)
    seen = random_transform(image, MetaCloakOptions(), StepNoise(draw, 0, range(3)))
    assert seen.shape == image.shape and seen.abs().max() <= 1
    (seen * torch.randn_like(seen)).sum().backward()
    assert image.grad is not None and (image.grad.abs().mean(dim=(1, 2, 3)) > 0).all()


def test_lessons_go_on_where_earlier_ones_ended() -> None:
    """Two lessons in a row see what one of their length sees; only the optimiser starts again."""
    seen: list[list[int]] = []
    surrogate, photos = Surrogate(small_models()[0], SurrogateOptions(), 0), Photos(small_photos(3), CPU)
    real: Callable[..., torch.Tensor] = surrogate._loss

    def loss(photos: Photos, image: torch.Tensor, rows: list[int], step: int, purpose: str) -> torch.Tensor:
        seen.append([step, *rows])
        return real(photos, image, rows, step, purpose)

    surrogate._loss = loss  # type: ignore[method-assign]
    for lesson in (Lesson("clean", 0, 2), Lesson("clean", 2, 2)):
        surrogate.fine_tune(photos, photos.image(), lesson)
    assert seen == [[0, 0, 1], [1, 2, 0], [2, 1, 2], [3, 0, 1]]

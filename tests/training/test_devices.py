import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from teacher_runs import small_config, small_models, small_photos
from training_runs import CONFIG, make_batch, random_model, small_photo_set, train_small

from rid.models.frozen_diffusion import share_autoencoders
from rid.training.batches import draw_batch
from rid.training.devices import (
    Numerics,
    allowing_tf32,
    choose_numerics,
    device_numerics,
    teacher_autocast,
    training_accelerator,
    with_half_denoisers,
)
from rid.training.losses import training_losses
from rid.training.run_log import read_log
from rid.training.teachers.methods import TEACHERS
from rid.training.teachers.pgd import run_teacher

CPU, HALF = torch.device("cpu"), Numerics(autocast=True, half_denoisers=True, tf32=True)


@pytest.mark.parametrize(
    ("precision", "device", "has_bfloat16", "expected"),
    [
        ("auto", "cuda", True, HALF),
        ("auto", "cuda", False, Numerics(autocast=False, half_denoisers=False, tf32=True)),
        ("bfloat16", "cuda", False, HALF),
        ("float32", "cuda", True, Numerics(autocast=False, half_denoisers=False, tf32=False)),
        ("auto", "cpu", True, Numerics(autocast=True, half_denoisers=False, tf32=False)),
        ("auto", "cpu", False, Numerics(autocast=False, half_denoisers=False, tf32=False)),
        ("bfloat16", "cpu", False, Numerics(autocast=True, half_denoisers=False, tf32=False)),
        ("float32", "cpu", True, Numerics(autocast=False, half_denoisers=False, tf32=False)),
    ],
)
def test_types_follow_from_the_configuration_and_the_device(
    precision: str, device: str, has_bfloat16: bool, expected: Numerics
) -> None:
    assert choose_numerics(precision, device, has_bfloat16) == expected  # type: ignore[arg-type]


def test_on_a_cpu_teachers_and_weights_stay_as_they_are() -> None:
    with teacher_autocast(CPU):
        assert not torch.is_autocast_enabled("cpu")
    model = random_model()
    (same,) = with_half_denoisers([model], device_numerics("bfloat16", CPU))
    assert same is model and next(same.unet.parameters()).dtype == torch.float32


def test_only_the_denoiser_is_kept_in_half_and_encodings_stay_the_same() -> None:
    model = random_model()
    batch = make_batch(small_photo_set(), CONFIG, 0)
    before = model.encode(model.resize(batch.image))
    full = model.output(before, torch.tensor([7, 7, 7, 7]))
    (half,) = with_half_denoisers([replace(model, unet=copy.deepcopy(model.unet))], HALF)
    assert {value.dtype for value in half.unet.parameters()} == {torch.bfloat16} == {half.prompt_states.dtype}
    assert half.vae_dtype == torch.float32 and half.encoding_key == model.encoding_key
    assert torch.equal(half.encode(half.resize(batch.image)), before)
    output = half.output(before, torch.tensor([7, 7, 7, 7]))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), full, rtol=0.05, atol=0.05)
    assert share_autoencoders([model, half])[1].vae is model.vae
    network = lambda image, levels: image * levels.view(-1, 1, 1, 1)  # noqa: E731
    losses = [training_losses(network, [one], batch, CONFIG, 0).adv_sds for one in (model, half)]
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.01)


def test_tf32_is_allowed_only_inside_and_only_where_the_run_may() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(RuntimeError), allowing_tf32(HALF):
        assert torch.get_float32_matmul_precision() == "high"
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == "highest"
    with allowing_tf32(device_numerics("auto", CPU)):
        assert torch.get_float32_matmul_precision() == "highest"


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_gets_the_batch_of_a_cpu_from_pinned_memory() -> None:
    drawn = draw_batch(small_photo_set(), CONFIG, 0)
    pinned = drawn.pinned()
    assert pinned.image.is_pinned() and pinned.image.dtype == torch.uint8
    there, here = pinned.to(torch.device("cuda")), drawn.to(CPU)
    for name in ("image", "budget_levels", "pair_image", "pair_budget_levels", "pair_perturbation"):
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=0, atol=1e-6)


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_trains_with_half_denoisers_what_a_cpu_trains(tmp_path: Path) -> None:
    device = training_accelerator("cuda").device
    model = random_model()
    moved = replace(
        copy.deepcopy(model),
        vae=copy.deepcopy(model.vae).to(device),
        unet=copy.deepcopy(model.unet).to(device),
        prompt_states=model.prompt_states.to(device),
        schedule=replace(model.schedule, abar=model.schedule.abar.to(device)),
    )
    train_small(tmp_path / "gpu", models=[moved], precision="auto")
    assert {value.dtype for value in moved.unet.parameters()} == {torch.bfloat16}
    assert moved.vae_dtype == torch.float32
    train_small(tmp_path / "cpu", models=[model])
    now, then = (read_log(tmp_path / name / "log.jsonl")[0] for name in ("gpu", "cpu"))
    for name in ("adv_sds", "regression"):
        assert now[name] == pytest.approx(then[name], rel=0.05, abs=0.01), name
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("method", ["advdm", "fsmg"])
def test_teachers_on_a_gpu_compute_in_bfloat16_and_keep_the_budget(method: str) -> None:
    (model,) = small_models(1)
    device = torch.device("cuda")
    moved = replace(
        model,
        vae=model.vae.to(device),
        unet=model.unet.to(device),
        prompt_states=model.prompt_states.to(device),
        schedule=replace(model.schedule, abar=model.schedule.abar.to(device)),
    )
    seen: set[torch.dtype] = set()
    config = small_config(method, steps=2)
    teacher = TEACHERS[method]([moved], config)
    teacher.models[0].unet.conv_in.register_forward_hook(  # type: ignore[union-attr,operator]
        lambda _module, _inputs, output: seen.add(output.dtype)
    )
    made = run_teacher(small_photos(), teacher)
    assert seen == {torch.bfloat16}
    assert 0 < abs(made.astype(int)).max() <= config.budget_levels

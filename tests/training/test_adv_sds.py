from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixed_prediction import FixedPrediction
from quick_pipelines import photo_crops
from torch import Tensor
from training_runs import random_model

from rid.models.frozen_diffusion import (
    FrozenDiffusion,
    checkpoint_autoencoders,
    load_frozen_diffusion,
    share_autoencoders,
)
from rid.training.adv_sds import adv_sds_loss, adv_sds_weight, ensemble_adv_sds_loss
from rid.training.batches import pixels_to_signed
from rid.training.noise import StepNoise


def setting(pipelines: dict[str, Path]) -> tuple[FrozenDiffusion, Tensor, Tensor, Tensor]:
    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    torch.manual_seed(0)
    latents = torch.randn(2, 8, 8, 8, requires_grad=True)
    return model, latents, torch.tensor([100, 800]), torch.randn(2, 8, 8, 8)


def test_a_perfect_prediction_gives_no_gradient(pipelines: dict[str, Path]) -> None:
    model, latents, timesteps, noise = setting(pipelines)
    perfect = replace(model, unet=FixedPrediction(noise))
    loss = adv_sds_loss(perfect, latents, timesteps, noise)
    (gradient,) = torch.autograd.grad(loss, latents)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_gradient_is_the_flipped_score_distillation(pipelines: dict[str, Path]) -> None:
    """d L / d z_t = -2 w(t) (eps - n) over the number of elements; z gets a further sqrt(abar_t)."""
    model, latents, timesteps, noise = setting(pipelines)
    predicted = torch.randn(2, 8, 8, 8)
    given = replace(model, unet=FixedPrediction(predicted))
    (gradient,) = torch.autograd.grad(adv_sds_loss(given, latents, timesteps, noise), latents)
    abar = model.schedule.at(timesteps).float()
    expected = -2 * adv_sds_weight(abar) * (predicted - noise) * abar.sqrt() / latents.numel()
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-4)


def test_no_gradient_reaches_the_frozen_models(pipelines: dict[str, Path]) -> None:
    models = [load_frozen_diffusion(str(folder)) for folder in pipelines.values()]
    image = pixels_to_signed(photo_crops(2)).requires_grad_(True)
    ensemble_adv_sds_loss(models, image, StepNoise(0, 0, range(2))).backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for model in models for part in (model.vae, model.unet) for p in part.parameters())


def test_models_with_one_autoencoder_share_its_encoding(pipelines: dict[str, Path]) -> None:
    models = [load_frozen_diffusion(str(folder)) for folder in pipelines.values()]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hooks = [model.vae.encoder.register_forward_hook(count) for model in models]
    ensemble_adv_sds_loss(models, pixels_to_signed(photo_crops(1)), StepNoise(0, 0, range(1)))
    assert calls == 1
    smaller = [models[0], replace(models[1], native_resolution=32)]
    ensemble_adv_sds_loss(smaller, pixels_to_signed(photo_crops(1)), StepNoise(0, 0, range(1)))
    assert calls == 3
    for hook in hooks:
        hook.remove()


def test_descending_the_loss_raises_the_diffusion_loss(pipelines: dict[str, Path]) -> None:
    """The purpose of Adv-SDS: a few descent steps make the photo harder for the model, noise of that size does not."""
    from rid.training.evaluation.effect.controls import gaussian_control
    from rid.training.evaluation.effect.diffusion_loss import diffusion_losses

    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    pixels = photo_crops(6, seed=9)
    image = pixels_to_signed(pixels)
    delta = torch.zeros_like(image)
    for step in range(12):
        variable = delta.clone().requires_grad_(True)
        loss = ensemble_adv_sds_loss([model], image + variable, StepNoise(0, step, range(6)))
        (gradient,) = torch.autograd.grad(loss, variable)
        delta = (delta - 2 / 127.5 * gradient.sign()).clamp(-16 / 127.5, 16 / 127.5)
    protected = ((image + delta).clamp(-1, 1) * 127.5 + 127.5).round().permute(0, 2, 3, 1).byte().numpy()
    change = protected.astype("int16") - pixels
    noisy = [p + gaussian_control(p, c, seed) for seed, (p, c) in enumerate(zip(pixels, change, strict=True))]
    clean = diffusion_losses(model, pixels, seed=77)
    raised = diffusion_losses(model, protected, seed=77) - clean
    control = diffusion_losses(model, np.stack(noisy).astype(np.uint8), seed=77) - clean
    assert raised.mean() > 3 * abs(control.mean())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_v_prediction_model_has_the_same_identity(prediction_type: str) -> None:
    """The U-Net's output is converted before it is compared with the noise."""
    model = random_model("v_prediction")
    model = replace(model, schedule=replace(model.schedule, prediction_type=prediction_type))
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 4, 4, requires_grad=True), torch.randn(2, 4, 4, 4)
    timesteps, output = torch.tensor([50, 950]), torch.randn(2, 4, 4, 4)
    abar = model.schedule.at(timesteps).float()
    noisy = abar.sqrt() * latents + (1 - abar).sqrt() * noise
    epsilon = abar.sqrt() * output + (1 - abar).sqrt() * noisy if prediction_type == "v_prediction" else output
    loss = adv_sds_loss(replace(model, unet=FixedPrediction(output)), latents, timesteps, noise)
    (gradient,) = torch.autograd.grad(loss, latents)
    expected = -2 * (1 - abar) * (epsilon - noise) * abar.sqrt() / latents.numel()
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-7, rtol=1e-4)
    assert loss.item() == pytest.approx(((1 - abar) * (epsilon - noise)).square().mean().item(), rel=1e-5)


def test_the_unet_is_never_part_of_a_graph() -> None:
    model = random_model()
    seen = []
    model.unet.register_forward_hook(lambda module, inputs, output: seen.append(output.sample.requires_grad))
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    ensemble_adv_sds_loss([model], image, StepNoise(0, 0, range(1))).backward()
    assert seen == [False]
    assert image.grad is not None and image.grad.abs().sum() > 0


def mixture() -> list[FrozenDiffusion]:
    """Epsilon and v, 4 and 8 latent channels, two scaling factors, two resolutions, two autoencoders."""
    return [
        random_model(),
        random_model("v_prediction", seed=1),
        random_model("v_prediction", channels=8, native=48, scaling=0.3, seed=2, vae_seed=1),
    ]


def test_an_ensemble_of_any_models_is_the_mean_of_their_losses() -> None:
    """Each model's loss is recomputed alone, from the numbers that the ensemble drew in that order."""
    models = mixture()
    image = pixels_to_signed(photo_crops(2, side=32))
    together = ensemble_adv_sds_loss(models, image, StepNoise(3, 1, range(2)))
    noise, alone, z = StepNoise(3, 1, range(2)), [], {}
    for model in models:
        if model.encoding_key not in z:
            posterior = noise.normal(model.latent_shape)
            z[model.encoding_key] = model.encode_with(model.resize(image), posterior)
        timesteps, n = noise.integers(0, 1000), noise.normal(model.latent_shape)
        latents = z[model.encoding_key]
        noisy = model.schedule.add_noise(latents, n, timesteps)
        weight = 1 - model.schedule.at(timesteps)
        alone.append((weight * (model.predict_noise(noisy, timesteps) - n)).square().mean())
    assert [model.latent_shape for model in models] == [(4, 4, 4), (4, 4, 4), (8, 6, 6)]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)


def test_the_posterior_mean_can_be_taken_instead_of_a_sample() -> None:
    model = random_model()
    image = pixels_to_signed(photo_crops(1, side=32))
    z = model.encode(image)
    noise = StepNoise(0, 0, range(1))
    timesteps, n = noise.integers(0, 1000), noise.normal(model.latent_shape)
    expected = adv_sds_loss(model, z, timesteps, n)
    assert ensemble_adv_sds_loss([model], image, StepNoise(0, 0, range(1)), posterior_mean=True) == expected
    assert ensemble_adv_sds_loss([model], image, StepNoise(0, 0, range(1))) != expected


def test_equal_autoencoders_are_kept_once_and_others_are_not() -> None:
    models = mixture()
    shared = share_autoencoders(models)
    assert shared[0].vae is shared[1].vae is models[0].vae
    assert shared[2].vae is models[2].vae
    assert [model.unet for model in shared] == [model.unet for model in models]


def test_models_whose_decoders_alone_differ_share_encodings_and_keep_their_decoders() -> None:
    one, other = random_model(), random_model("v_prediction", seed=1)
    torch.nn.init.ones_(other.vae.decoder.conv_out.bias)
    assert one.encoding_key == other.encoding_key
    shared = share_autoencoders([one, other, one])
    assert shared[1].vae is other.vae and shared[0].vae is shared[2].vae is one.vae
    calls: list[int] = []
    for model in (one, other):
        model.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    ensemble_adv_sds_loss(shared, pixels_to_signed(photo_crops(1, side=32)), StepNoise(0, 0, range(1)))
    assert len(calls) == 1


def test_checkpointing_the_autoencoder_gives_the_same_gradient() -> None:
    models = mixture()
    gradients = []
    for enabled in (False, True, False):
        checkpoint_autoencoders(models, enabled)
        image = pixels_to_signed(photo_crops(2, side=32)).requires_grad_(True)
        ensemble_adv_sds_loss(models, image, StepNoise(0, 0, range(2))).backward()
        gradients.append(image.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-9, rtol=1e-5)
    assert torch.equal(gradients[2], gradients[0])


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    model = random_model(native=64)
    kept = []
    for enabled in (False, True):
        checkpoint_autoencoders([model], enabled)
        sizes = [0]

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes[0] += tensor.numel()
            return tensor

        image = pixels_to_signed(photo_crops(2)).requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            ensemble_adv_sds_loss([model], image, StepNoise(0, 0, range(2)))
        kept.append(sizes[0])
    assert kept[1] < 0.5 * kept[0]


def test_half_precision_autocast_stays_near() -> None:
    model = random_model()
    gradients = []
    for enabled in (False, True):
        image = pixels_to_signed(photo_crops(2, side=32)).requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = ensemble_adv_sds_loss([model], image, StepNoise(0, 0, range(2)))
        loss.backward()
        assert loss.dtype == torch.float32
        gradients.append(image.grad.flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from quick_pipelines import photo_crops
from torch import Tensor

from models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from training.adv_sds import adv_sds_loss, adv_sds_weight, ensemble_adv_sds_loss
from training.batches import pixels_to_signed
from training.regression import regression_loss


class FixedPrediction(torch.nn.Module):
    """A U-Net whose prediction is given."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, noisy: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> "FixedPrediction":
        return self

    @property
    def sample(self) -> Tensor:
        return self.prediction


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
    ensemble_adv_sds_loss(models, image, torch.Generator().manual_seed(0)).backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for model in models for part in (model.vae, model.unet) for p in part.parameters())


def test_models_with_one_autoencoder_share_its_encoding(pipelines: dict[str, Path]) -> None:
    models = [load_frozen_diffusion(str(folder)) for folder in pipelines.values()]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hooks = [model.vae.encoder.register_forward_hook(count) for model in models]
    ensemble_adv_sds_loss(models, pixels_to_signed(photo_crops(1)), torch.Generator().manual_seed(0))
    assert calls == 1
    smaller = [models[0], replace(models[1], native_resolution=32)]
    ensemble_adv_sds_loss(smaller, pixels_to_signed(photo_crops(1)), torch.Generator().manual_seed(0))
    assert calls == 3
    for hook in hooks:
        hook.remove()


def test_descending_the_loss_raises_the_diffusion_loss(pipelines: dict[str, Path]) -> None:
    """What Adv-SDS is for: a few descent steps make the photo harder for the model, noise of that size does not."""
    from training.evaluation.controls import gaussian_control
    from training.evaluation.diffusion_loss import diffusion_losses

    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    pixels = photo_crops(6, seed=9)
    image = pixels_to_signed(pixels)
    delta = torch.zeros_like(image)
    for step in range(12):
        variable = delta.clone().requires_grad_(True)
        loss = ensemble_adv_sds_loss([model], image + variable, torch.Generator().manual_seed(step))
        (gradient,) = torch.autograd.grad(loss, variable)
        delta = (delta - 2 / 127.5 * gradient.sign()).clamp(-16 / 127.5, 16 / 127.5)
    protected = ((image + delta).clamp(-1, 1) * 127.5 + 127.5).round().permute(0, 2, 3, 1).byte().numpy()
    change = protected.astype("int16") - pixels
    noisy = [p + gaussian_control(p, c, seed) for seed, (p, c) in enumerate(zip(pixels, change, strict=True))]
    clean = diffusion_losses(model, pixels, seed=77)
    raised = diffusion_losses(model, protected, seed=77) - clean
    control = diffusion_losses(model, np.stack(noisy).astype(np.uint8), seed=77) - clean
    assert raised.mean() > 3 * abs(control.mean())


def test_regression_loss_is_the_mean_square() -> None:
    assert regression_loss(torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)) == 0.25

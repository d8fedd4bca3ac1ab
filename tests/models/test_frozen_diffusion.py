import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_pipelines import photo_crops
from safetensors.torch import load_file, save_file

from rid.models.frozen_diffusion import load_frozen_diffusion
from rid.training.batches import pixels_to_signed


def test_both_prediction_types_load_frozen(pipelines: dict[str, Path]) -> None:
    models = {kind: load_frozen_diffusion(str(folder)) for kind, folder in pipelines.items()}
    for kind, model in models.items():
        assert model.schedule.prediction_type == kind
        assert model.native_resolution == 64
        assert not any(p.requires_grad for module in (model.vae, model.unet) for p in module.parameters())
    assert models["epsilon"].encoder_digest == models["v_prediction"].encoder_digest


def test_the_saved_pipeline_is_a_stable_diffusion_pipeline(pipelines: dict[str, Path]) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(pipelines["v_prediction"], torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("photo", num_inference_steps=2, height=64, width=64, generator=torch.manual_seed(0)).images[0]
    assert image.size == (64, 64)


def test_noising_agrees_with_diffusers(pipelines: dict[str, Path]) -> None:
    from diffusers import DDPMScheduler

    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    scheduler = DDPMScheduler.from_pretrained(pipelines["epsilon"], subfolder="scheduler")
    latents, noise, timesteps = torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8), torch.tensor([0, 400, 999])
    expected = scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(model.schedule.add_noise(latents, noise, timesteps), expected)


def test_a_velocity_converts_back_to_its_noise(pipelines: dict[str, Path]) -> None:
    from diffusers import DDPMScheduler

    model = load_frozen_diffusion(str(pipelines["v_prediction"]))
    scheduler = DDPMScheduler.from_pretrained(pipelines["v_prediction"], subfolder="scheduler")
    latents, noise, timesteps = torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8), torch.tensor([10, 500, 990])
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    noisy = model.schedule.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(model.schedule.to_epsilon(velocity, noisy, timesteps), noise, atol=1e-4, rtol=1e-4)


def test_latents_carry_the_gradient_and_resize_is_antialiased(pipelines: dict[str, Path]) -> None:
    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    model.encode(model.resize(image)).square().sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(128, 128).expand(1, 3, -1, -1)
    assert model.resize(checker).abs().max() < 0.05


def test_native_resolution_and_type_can_be_chosen(pipelines: dict[str, Path]) -> None:
    model = load_frozen_diffusion(str(pipelines["epsilon"]), native_resolution=96, dtype=torch.bfloat16)
    latents = model.encode(model.resize(pixels_to_signed(photo_crops(1))))
    assert latents.shape == (1, 8, 12, 12)
    assert latents.dtype == torch.bfloat16


def test_a_seeded_posterior_sample_is_reproducible(pipelines: dict[str, Path]) -> None:
    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    image = pixels_to_signed(photo_crops(2))
    first, again = (model.encode(image, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, model.encode(image))


def broken(source: Path, target: Path, change: str) -> Path:
    shutil.copytree(source, target)
    index = json.loads((target / "model_index.json").read_text())
    if change == "no index":
        (target / "model_index.json").unlink()
    elif change == "no unet folder":
        shutil.rmtree(target / "unet")
    elif change == "no tokenizer entry":
        del index["tokenizer"]
        (target / "model_index.json").write_text(json.dumps(index))
    elif change == "two text encoders":
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        (target / "model_index.json").write_text(json.dumps(index))
    elif change == "no weights":
        for file in (target / "vae").glob("*.safetensors"):
            file.unlink()
    elif change == "index is not JSON":
        (target / "model_index.json").write_text("{")
    return target


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("no index", "has no model_index.json"),
        ("no unet folder", "lacks unet"),
        ("no tokenizer entry", "lacks tokenizer"),
        ("two text encoders", "Stable Diffusion 1.x or 2.x"),
        ("no weights", "could not be loaded"),
        ("index is not JSON", "is not JSON"),
    ],
)
def test_a_wrong_folder_gives_one_sentence(
    pipelines: dict[str, Path], tmp_path: Path, change: str, sentence: str
) -> None:
    folder = broken(pipelines["epsilon"], tmp_path / "model", change)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_frozen_diffusion(str(folder))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_not_searched_on_the_hub() -> None:
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        load_frozen_diffusion("./no/such/folder")


def test_trained_models_predict_noise_better_than_nothing(pipelines: dict[str, Path]) -> None:
    from rid.training.evaluation.effect.diffusion_loss import diffusion_losses

    losses = [
        diffusion_losses(load_frozen_diffusion(str(f)), photo_crops(8, seed=5)).mean() for f in pipelines.values()
    ]
    assert np.all(np.array(losses) < 1.0)


def test_the_encoder_alone_decides_shared_encodings_and_every_part_the_model(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    model = load_frozen_diffusion(str(pipelines["epsilon"]))
    changed = {}
    for part, name in (("vae", "decoder.conv_out.bias"), ("vae", "encoder.conv_out.bias"), ("unet", "conv_out.bias")):
        folder = tmp_path / f"{part}-{name}"
        shutil.copytree(pipelines["epsilon"], folder)
        file = folder / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        save_file(weights | {name: weights[name] + 1}, file, {"format": "pt"})
        changed[name] = load_frozen_diffusion(str(folder))
    keys = {name: other.encoding_key for name, other in changed.items()}
    assert keys["decoder.conv_out.bias"] == keys["conv_out.bias"] == model.encoding_key != keys["encoder.conv_out.bias"]
    other_prompt = load_frozen_diffusion(str(pipelines["epsilon"]), prompt="photo")
    names = {one.describe() for one in (model, other_prompt, *changed.values())}
    assert len(names) == 5
    assert load_frozen_diffusion(str(pipelines["epsilon"])).describe() in names

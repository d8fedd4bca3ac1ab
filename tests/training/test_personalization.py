from pathlib import Path

import numpy as np
import pytest
import torch
from quick_pipelines import photo_crops

from rid.training.personalization.attack import Attacker, personalise, prepare
from rid.training.personalization.config import (
    ATTACKS,
    PERSONALIZATION_RECIPES,
    PersonalizationConfig,
    personalization_recipe,
)
from rid.training.personalization.new_token import add_token
from rid.training.personalization.pipeline import TextToImage, draw, load_text_to_image

QUICK = {
    "dreambooth": personalization_recipe(
        "dreambooth_64", steps=30, batch=4, learning_rate=1e-3, prior_weight=1.0, class_images=4
    ),
    "lora_textual_inversion": personalization_recipe("lora_textual_inversion_64", steps=30, batch=4, rank=4),
    "textual_inversion": personalization_recipe("textual_inversion_64", steps=30, batch=4),
}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def model(request: pytest.FixtureRequest, pipelines: dict[str, Path]) -> TextToImage:
    return load_text_to_image(str(pipelines[request.param]))


@pytest.fixture(scope="module")
def person() -> np.ndarray:
    """A "person": four crops of one photograph."""
    from odd_photos import shipped

    face = shipped("astronaut")[0:220, 120:340]
    return np.stack([np.ascontiguousarray(face[i : i + 192 : 3, i : i + 192 : 3]) for i in (0, 8, 16, 24)])


@torch.no_grad()
def loss_on(model: TextToImage, photos: np.ndarray, prompt: str) -> float:
    """Mean denoising loss under fresh noise, the same for every model."""
    latents, states = model.encode(photos), model.states(model.token_ids([prompt]))
    generator = torch.Generator().manual_seed(77)
    draws = [model.denoising_loss(latents, states.expand(len(photos), -1, -1), generator) for _ in range(40)]
    return float(torch.stack(draws).mean())


@pytest.mark.parametrize("method", ATTACKS)
def test_an_attack_learns_the_person_and_leaves_the_model_as_it_was(
    model: TextToImage, person: np.ndarray, method: str
) -> None:
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    words = model.text_encoder.get_input_embeddings().weight.clone()
    config = QUICK[method]
    attacker = prepare(model, config)
    assert len(attacker.class_images) == (4 if method == "dreambooth" else 0)
    losses: list[float] = []
    personal = personalise(attacker, person, config, lambda step, loss: losses.append(loss))
    assert len(losses) == config.steps
    start = config.prompt if method == "dreambooth" else "photo of person person"
    assert loss_on(personal, person, config.prompt) < loss_on(model, person, start)
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())
    assert torch.equal(words, model.text_encoder.get_input_embeddings().weight)
    table = personal.text_encoder.get_input_embeddings().weight
    if method != "dreambooth":
        assert len(table) == len(words) + 1
        assert torch.equal(table[: len(words)], words), "only the new word may change"
    if method == "textual_inversion":
        assert all(torch.equal(value, before[name]) for name, value in personal.unet.state_dict().items())


def test_the_same_seed_gives_the_same_pictures(model: TextToImage, person: np.ndarray) -> None:
    config = personalization_recipe("dreambooth_64", steps=2)
    attacker = prepare(model, config)
    pictures = [
        draw(personalise(attacker, person, config), config.prompt, 2, seed=seed, sampler_steps=3) for seed in (1, 1, 2)
    ]
    assert pictures[0].shape == (2, 64, 64, 3)
    assert pictures[0].dtype == np.uint8
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_prior_preservation_keeps_the_class(model: TextToImage, person: np.ndarray) -> None:
    config = QUICK["dreambooth"]
    people = photo_crops(4, seed=9)
    kept = personalise(Attacker(model, people), person, config)
    lost = personalise(Attacker(model, people[:0]), person, config)
    assert loss_on(kept, people, config.class_prompt) < loss_on(lost, people, config.class_prompt)


def test_what_cannot_be_done_gives_a_sentence(model: TextToImage, person: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resize them to 64"):
        personalise(Attacker(model, person), person[:, :32, :32], QUICK["textual_inversion"])
    copied = model.fresh_copy()
    add_token(copied, "<person>", "person")
    with pytest.raises(ValueError, match="already"):
        add_token(copied, "<person>", "person")
    with pytest.raises(ValueError, match="unknown: one of dreambooth_64"):
        personalization_recipe("dreambooth_65")
    with pytest.raises(ValueError, match="method"):
        PersonalizationConfig(method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token"):
        PersonalizationConfig(instance_prompt="photo of a person")
    with pytest.raises(ValueError, match="Stable Diffusion layout"):
        load_text_to_image(str(tmp_path))


def test_every_recipe_is_whole_and_named_apart() -> None:
    digests = {name: make().digest() for name, make in PERSONALIZATION_RECIPES.items()}
    assert len(set(digests.values())) == len(digests)

"""From the launchpad to the request of a training."""

from pathlib import Path
from typing import Any

import pytest
from random_pipelines import write_random_pipeline
from small_spaces import save_spaces

from rid.assets.defender import training_request
from rid.assets.training_config import DefenderRunConfig
from rid.resources.places import Places

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(home=str(tmp_path / "home"), source=str(tmp_path), weights=str(WEIGHTS))


def config(**fields: Any) -> DefenderRunConfig:
    return DefenderRunConfig(**{"drops": [], "recipe": "demo", **fields})


def test_any_field_of_a_recipe_and_options_of_models_are_settable(places: Places, tmp_path: Path) -> None:
    model = str(write_random_pipeline(tmp_path / "model"))
    options = {model: {"native_resolution": 48, "dtype": "bfloat16"}}
    fields = {"precision": "float32", "steps": 7, "learning_rate": 0.5}
    request = training_request(
        config(models=[model, "embedded"], model_options=options, recipe_fields=fields, processes=0), places
    )
    changed = request.config
    assert (changed.precision, changed.steps, changed.learning_rate, changed.size) == ("float32", 7, 0.5, "tiny-64")
    assert [(source.native_resolution, source.dtype) for source in request.models] == [
        (48, "bfloat16"),
        (None, "float32"),
    ]
    assert request.processes == 0 and request.teacher is not None and request.teacher.models == request.models


def test_a_recipe_of_latent_spaces_takes_no_diffusion_model(places: Places, tmp_path: Path) -> None:
    spaces = [str(folder) for folder in save_spaces(tmp_path)]
    request = training_request(config(recipe="any_size", spaces=spaces), places)
    assert [space.name for space in request.spaces] == ["space-0", "space-1"]
    assert request.models == () and request.teacher is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"recipe_fields": {"colour": 1}}, "has no field colour"),
        ({"recipe_fields": {"precision": "int4"}}, "precision 'int4' is unknown"),
        ({"model_options": {"other": {}}}, "options are given of 'other', which is not among the models: embedded"),
        ({"model_options": {"embedded": 48}}, "options of 'embedded' are 48: give an object"),
        ({"model_options": {"embedded": {"size": 48}}}, "may have revision, dtype, native_resolution, prompt"),
        ({"initial": "nobody"}, "there is no defender 'nobody'"),
        ({"recipe": "any_size", "spaces": ["nowhere"]}, "the latent space 'nowhere' is no folder"),
    ],
)
def test_what_cannot_be_gives_one_sentence(places: Places, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        training_request(config(**fields), places)
    assert "\n" not in str(caught.value)

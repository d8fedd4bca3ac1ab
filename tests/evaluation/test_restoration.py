from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_pipelines import photo_crops

from rid.models.checkpoint import load_defender
from rid.models.defender import Defender
from rid.training.evaluation.attackers.restoration import (
    RestorationConfig,
    RestorationNetwork,
    pack_restoration,
    restoration_64,
    restore,
    train_restoration,
    unpack_restoration,
)
from rid.training.evaluation.effect.defended import perturb_squares

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"
QUICK = RestorationConfig(width=8, blocks=1, steps=60)


@pytest.fixture(scope="module")
def defender() -> Defender:
    return load_defender(WEIGHTS / "default")[0]


def test_a_fresh_network_changes_nothing() -> None:
    photos = photo_crops(3, seed=1)
    assert np.array_equal(restore(RestorationNetwork(QUICK).eval(), photos), photos)


def test_training_on_pairs_undoes_protection_of_other_photos(defender: Defender) -> None:
    before = torch.random.get_rng_state()
    network, losses = train_restoration(defender, photo_crops(48, seed=2), QUICK)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(losses) == QUICK.steps
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    others = photo_crops(8, seed=3)
    protected = (others + perturb_squares(defender, others, QUICK.budget_levels)).astype(np.uint8)
    wrong = [np.abs(photos.astype(int) - others).mean() for photos in (protected, restore(network, protected))]
    assert wrong[1] < 0.8 * wrong[0]


def test_the_same_defender_photos_and_recipe_give_the_same_network(defender: Defender) -> None:
    photos, few = photo_crops(6, seed=4), replace(QUICK, steps=3)
    packed = [pack_restoration(train_restoration(defender, photos, few)[0]) for _ in range(2)]
    assert packed[0] == packed[1]
    other = pack_restoration(train_restoration(defender, photos, replace(few, seed=1))[0])
    assert other != packed[0]
    back = unpack_restoration(packed[0], few)
    assert pack_restoration(back) == packed[0]
    assert not any(weights.requires_grad for weights in back.parameters())


def test_everything_in_the_configuration_names_it() -> None:
    base = restoration_64()
    changed = [replace(base, **{name: 3}) for name in ("budget_levels", "width", "blocks", "steps", "batch", "seed")]
    assert len({config.digest() for config in (base, *changed, replace(base, learning_rate=0.1))}) == 8
    with pytest.raises(ValueError, match="steps 0 is not allowed"):
        replace(base, steps=0)


def test_without_photos_a_sentence_says_so(defender: Defender) -> None:
    with pytest.raises(ValueError, match="none of those given shows a face"):
        train_restoration(defender, photo_crops(1)[:0], QUICK)

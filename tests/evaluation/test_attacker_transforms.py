from pathlib import Path

import numpy as np
import pytest
from quick_pipelines import photo_crops

from rid.models.checkpoint import load_defender
from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from rid.training.evaluation.attackers.purification import purify
from rid.training.evaluation.attackers.restoration import RestorationConfig, RestorationNetwork, train_restoration
from rid.training.evaluation.attackers.transforms import transform_photos
from rid.training.evaluation.cells import RESTORE, SIMPLE_TRANSFORMS, TRANSFORMS
from rid.training.evaluation.effect.protected_photos import matched_noise


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def model(request: pytest.FixtureRequest, pipelines: dict[str, Path]) -> FrozenDiffusion:
    return load_frozen_diffusion(str(pipelines[request.param]))


@pytest.fixture(scope="module")
def restoration() -> RestorationNetwork:
    defender = load_defender(Path(__file__).parents[2] / "models" / "weights" / "default")[0]
    return train_restoration(defender, photo_crops(8, seed=4), RestorationConfig(width=4, blocks=1, steps=4))[0]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transformation_changes_photos_keeps_their_shape_and_repeats(
    model: FrozenDiffusion, restoration: RestorationNetwork, name: str
) -> None:
    photos = photo_crops(2, seed=5)
    changed = transform_photos(photos, name, model, seed=1, restoration=restoration)
    assert changed.shape == photos.shape and changed.dtype == np.uint8
    assert not np.array_equal(changed, photos)
    assert np.array_equal(changed, transform_photos(photos, name, model, seed=1, restoration=restoration))
    if name in (*SIMPLE_TRANSFORMS, RESTORE) and name != "crop-rotate":  # the quick pipelines decode to mush
        assert np.corrcoef(changed.ravel(), photos.ravel())[0, 1] > 0.8


def test_lower_qualities_lose_more(model: FrozenDiffusion) -> None:
    photos = photo_crops(2, seed=6).astype(np.int16)
    lost = [
        np.abs(transform_photos(photos.astype(np.uint8), f"jpeg-{quality}", model, 0) - photos).mean()
        for quality in (95, 75, 50)
    ]
    assert lost == sorted(lost)


def test_purification_goes_further_the_more_noise_is_added(model: FrozenDiffusion) -> None:
    photos = photo_crops(2, seed=7)
    coded = purify(model, photos, seed=0, strength=0.001, steps=1).astype(int)  # the autoencoder alone, nearly
    moved = [
        np.abs(purify(model, photos, seed=0, strength=strength, steps=4) - coded).mean() for strength in (0.05, 0.5)
    ]
    assert 0 < moved[0] < moved[1]


def test_noise_has_the_norm_of_what_it_is_compared_with() -> None:
    photos = photo_crops(3, seed=8)
    signs = np.random.default_rng(0).choice([-9, 9], photos.shape)
    protected = np.clip(photos.astype(np.int16) + signs, 0, 255).astype(np.uint8)
    noisy = matched_noise(photos, protected, seed=3)
    for clean, one, other in zip(photos, protected, noisy, strict=True):
        wanted, got = (np.linalg.norm(version.astype(float) - clean) for version in (one, other))
        assert got == pytest.approx(wanted, rel=0.01)


def test_an_unknown_transformation_gives_a_sentence(model: FrozenDiffusion) -> None:
    with pytest.raises(ValueError, match="unknown: one of jpeg-Q, purify, purify-patches, upscale, restore, resize"):
        transform_photos(photo_crops(1), "magic", model, 0)
    with pytest.raises(ValueError, match="needs a network"):
        transform_photos(photo_crops(1), RESTORE, model, 0)
    assert np.array_equal(transform_photos(photo_crops(1), "", model, 0), photo_crops(1))

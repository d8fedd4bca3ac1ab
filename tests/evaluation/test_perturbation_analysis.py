from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quick_pipelines import photo_crops

from rid.models.checkpoint import load_defender
from rid.models.frozen_diffusion import load_frozen_diffusion
from rid.training.evaluation.cells import CLEAN, DEFENDER, NOISE, TEACHER, Cell
from rid.training.evaluation.effect.diffusion_loss import diffusion_losses_by_time
from rid.training.evaluation.effect.perturbation_analysis import AnalysisConfig, analyse_photos, summarise_analysis
from rid.training.evaluation.effect.power_spectrum import radial_power_spectrum
from rid.training.evaluation.effect.protected_photos import protect_photos

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"
RID = Cell(DEFENDER, "RID", 16)
CELLS = [Cell(CLEAN), RID, replace(RID, kind=NOISE), replace(RID, kind=TEACHER, name="encoder")]
CONFIG = AnalysisConfig(photos=3, bins=5, draws=2)


@pytest.fixture(scope="module")
def people() -> list[dict]:
    model = load_frozen_diffusion(str(WEIGHTS / "embedded-64"))
    defender = load_defender(WEIGHTS / "default")[0]
    return [
        analyse_photos(CELLS, photo_crops(3, seed=seed), model, lambda _: defender, CONFIG, seed=seed, teacher_seed=0)
        for seed in (1, 2)
    ]


def test_protection_raises_the_loss_more_than_noise_of_equal_norm(people: list[dict]) -> None:
    analysis = summarise_analysis(CELLS, people)
    clean, rid, noise, teacher = analysis.versions
    assert analysis.photos == 6 and analysis.times == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert clean.raised is None and clean.spectrum is None and clean.norm == 0
    for version in (rid, noise, teacher):
        assert version.raised and version.spectrum
        assert len(version.losses) == len(version.raised) == 5 and len(version.spectrum) == 32
        for raised, loss, before in zip(version.raised, version.losses, clean.losses, strict=True):
            assert raised.low <= raised.mean <= raised.high
            assert raised.mean == pytest.approx(loss.mean - before.mean)
    assert noise.norm == pytest.approx(rid.norm, rel=0.01), "noise has the norm after rounding"
    assert teacher.raised and noise.raised
    assert np.mean([one.mean for one in teacher.raised]) > np.mean([one.mean for one in noise.raised])


def test_noise_of_equal_norm_is_flat_and_holds_all_of_its_power(people: list[dict]) -> None:
    _, rid, noise, _ = summarise_analysis(CELLS, people).versions
    assert rid.spectrum and noise.spectrum
    powers = np.array([one.mean for one in noise.spectrum[1:]])
    expected = noise.norm**2 / (64 * 64 * 3)
    assert powers == pytest.approx(np.full(len(powers), expected), rel=0.35), "few photos, few values a ring"
    assert powers.mean() == pytest.approx(expected, rel=0.05)
    shares = np.array([one.mean for one in rid.spectrum])
    assert shares.max() / shares.min() > 3, "a protection is not white"


def test_each_version_of_a_photo_sees_the_same_noise(people: list[dict]) -> None:
    model = load_frozen_diffusion(str(WEIGHTS / "embedded-64"))
    photos = photo_crops(3, seed=1)
    losses = diffusion_losses_by_time(model, photos, draws=10, seed=CONFIG.seed).reshape(5, 2, 3).mean(axis=1)
    assert np.array_equal(losses, np.array(people[0][CELLS[0].key]["losses"]))
    defender = load_defender(WEIGHTS / "default")[0]
    protected = protect_photos(RID, photos, model, lambda _: defender, seed=1, teacher_seed=0)
    spectra = radial_power_spectrum(protected.astype(np.int16) - photos)
    assert spectra.tolist() == people[0][RID.key]["spectra"]


def test_the_configuration_has_a_digest_of_all_of_it() -> None:
    changed = [replace(CONFIG, **{name: 9}) for name in ("photos", "bins", "draws", "seed")]
    assert len({config.digest() for config in (CONFIG, *changed)}) == 5

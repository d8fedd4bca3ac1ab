import numpy as np
import pytest

from rid.training.evaluation.effect.power_spectrum import radial_power_spectrum


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (64, 64, 64, 3))
    power = radial_power_spectrum(noise)
    assert power.shape == (64, 32)
    assert power.mean(axis=0) == pytest.approx(np.full(32, 25.0), rel=0.1)


@pytest.mark.parametrize("cycles", [1, 5, 20, 32])
def test_a_sinusoid_peaks_at_its_frequency_and_nowhere_else(cycles: int) -> None:
    line = 8 * np.cos(2 * np.pi * cycles * np.arange(64) / 64)
    waves = np.broadcast_to(line[None, None, :, None], (1, 64, 64, 3))
    for turned in (waves, waves.transpose(0, 2, 1, 3)):
        power = radial_power_spectrum(turned)[0]
        assert int(power.argmax()) + 1 == cycles
        assert np.delete(power, cycles - 1).max() < 1e-9 * power.max()


def test_a_diagonal_wave_counts_by_its_length() -> None:
    place = np.arange(64)
    wave = np.cos(2 * np.pi * (6 * place[:, None] + 8 * place[None]) / 64)
    power = radial_power_spectrum(np.repeat(wave[None, :, :, None], 3, axis=3))[0]
    assert int(power.argmax()) + 1 == 10


def test_the_mean_does_not_count_and_power_goes_with_the_square() -> None:
    noise = np.random.default_rng(1).integers(-9, 10, (2, 32, 32, 3))
    assert radial_power_spectrum(noise + 40) == pytest.approx(radial_power_spectrum(noise))
    assert radial_power_spectrum(3 * noise) == pytest.approx(9 * radial_power_spectrum(noise))
    with pytest.raises(ValueError, match="needs"):
        radial_power_spectrum(noise[:, :16])

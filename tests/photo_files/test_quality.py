import math

import cv2
import numpy as np
import pytest
from odd_photos import photograph

from rid.models.photo_files.quality import largest_difference, measure_survival, squared_distance, ssim

PHOTO = np.asarray(photograph(256, 256))


def perturbed(seed: int, levels: int = 6) -> np.ndarray:
    change = np.random.default_rng(seed).integers(-levels, levels + 1, PHOTO.shape)
    return np.clip(PHOTO.astype(int) + change, 0, 255).astype(np.uint8)


def test_survival_is_what_its_definition_says() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    intended, written = perturbed(0), perturbed(1)
    mixed = (intended.astype(int) * 3 + written) // 4
    p = intended.astype(np.float64) - PHOTO
    d = mixed.astype(np.float64) - PHOTO
    survival = measure_survival(PHOTO, intended, mixed.astype(np.uint8))
    assert survival.gain == pytest.approx((d * p).sum() / (p * p).sum(), rel=1e-9)
    assert survival.cosine == pytest.approx((d * p).sum() / np.sqrt((d * d).sum() * (p * p).sum()), rel=1e-9)
    assert survival.psnr == pytest.approx(peak_signal_noise_ratio(PHOTO, mixed.astype(np.uint8)), rel=1e-9)


def test_nothing_and_everything_survive() -> None:
    assert measure_survival(PHOTO, perturbed(0), PHOTO).gain == 0
    assert measure_survival(PHOTO, perturbed(0), PHOTO).psnr == math.inf
    assert measure_survival(PHOTO, PHOTO, perturbed(0)).gain == 0
    whole = measure_survival(PHOTO, perturbed(0), perturbed(0))
    assert (whole.gain, whole.cosine) == (1, 1)


def test_sums_of_large_pictures_are_exact() -> None:
    black, white = np.zeros((3000, 4000, 3), np.uint8), np.full((3000, 4000, 3), 255, np.uint8)
    assert squared_distance(black, white) == 255**2 * black.size
    assert largest_difference(black, white) == 255


@pytest.mark.parametrize("levels", [1, 6, 16])
def test_ssim_is_that_of_the_reference_implementation(levels: int) -> None:
    from skimage.metrics import structural_similarity

    other = perturbed(2, levels)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (PHOTO, other)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    _, similarity = structural_similarity(*grey, **options)
    assert ssim(PHOTO, other) == pytest.approx(similarity.mean(), abs=5e-4)
    assert ssim(grey[0], grey[1]) == pytest.approx(ssim(PHOTO, other), abs=1e-6)


def test_ssim_of_equal_pictures_is_one_at_any_size() -> None:
    for size in [(1, 1), (33, 40), (300, 1000)]:
        picture = np.asarray(photograph(*size))
        assert ssim(picture, picture) == pytest.approx(1)

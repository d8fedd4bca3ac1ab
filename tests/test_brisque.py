import cv2
import numpy as np
import pytest
from skimage import data

from training.evaluation.brisque import asymmetric_fit, brisque, brisque_features, normalised
from training.evaluation.picture_quality import naturalness

ASTRONAUT = data.astronaut()
NOISY = np.clip(ASTRONAUT + np.random.default_rng(0).normal(0, 25, ASTRONAUT.shape), 0, 255).astype(np.uint8)
BLURRED = cv2.GaussianBlur(ASTRONAUT, (0, 0), 3)
SMALL = cv2.resize(ASTRONAUT, (64, 64), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("picture", "score"),
    [(ASTRONAUT, 10.795), (NOISY, 51.537), (BLURRED, 76.330), (data.coffee(), 3.048), (SMALL, 29.148)],
    ids=["clean", "noise", "blur", "coffee", "64 px"],
)
def test_scores_are_those_of_the_package_whose_fit_this_is(picture: np.ndarray, score: float) -> None:
    """Computed with brisque 0.2.0 and libsvm-official 3.37; it searches shapes in another way."""
    assert brisque(picture) == pytest.approx(score, abs=0.05)


def test_a_fit_finds_the_shape_and_the_variances() -> None:
    random = np.random.default_rng(0)
    shape, mean, left, right = asymmetric_fit(random.normal(0, 2, 200_000))
    assert (shape, left, right) == pytest.approx((2, 4, 4), rel=0.03) and abs(mean) < 0.05
    laplace = np.abs(random.laplace(0, 1, 200_000)) * random.choice([-3.0, 1.0], 200_000)
    assert asymmetric_fit(laplace)[1] < -0.5, "more of it lies on the left"
    assert asymmetric_fit(random.laplace(0, 1, 200_000))[0] == pytest.approx(1, rel=0.03)


def test_luminance_is_normalised_by_its_neighbourhood() -> None:
    grey = ASTRONAUT.mean(axis=2) / 255
    field = normalised(grey)[8:-8, 8:-8]
    assert abs(field.mean()) < 0.05 and 0.3 < field.std() < 1.2
    assert normalised(grey + 0.1)[8:-8, 8:-8] == pytest.approx(field)
    assert brisque_features(ASTRONAUT).shape == (36,)


def test_what_cannot_be_scored_is_left_out() -> None:
    flat = np.full((64, 64, 3), 9, np.uint8)
    for picture in (flat, ASTRONAUT[:8]):
        with pytest.raises(ValueError, match="at least 16 pixels"):
            brisque(picture)
    assert naturalness("x", np.stack([flat, SMALL])) == {"x": pytest.approx(brisque(SMALL))}
    assert naturalness("x", np.stack([flat])) == {}

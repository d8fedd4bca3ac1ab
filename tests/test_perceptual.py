import importlib.util

import numpy as np
import pytest

from assets.report_figures import spread
from training.evaluation.perceptual import LpipsMissing, lpips_distances

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (80, 70, 3), dtype=np.uint8)


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="lpips is installed")
def test_without_the_package_a_sentence_says_so() -> None:
    with pytest.raises(LpipsMissing, match="the package lpips is not installed"):
        lpips_distances([(PICTURE, PICTURE)])


def test_equal_pictures_have_no_distance_and_others_more() -> None:
    pytest.importorskip("lpips")
    near = np.clip(PICTURE.astype(np.int16) + RNG.integers(-6, 7, PICTURE.shape), 0, 255).astype(np.uint8)
    far = RNG.integers(0, 256, PICTURE.shape, dtype=np.uint8)
    same, little, much = lpips_distances([(PICTURE, PICTURE), (PICTURE, near), (PICTURE, far)])
    assert same == 0 < little < much


def test_the_worst_of_a_distance_is_its_largest() -> None:
    values = np.arange(11, dtype=np.float32)
    assert (spread(values).worst, spread(values, worst="most").worst, spread(values).median) == (0, 10, 5)

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from rid.models.photo_files.smooth_areas import just_noticeable, smooth_change


def sky(side: int = 512, level: int = 128) -> NDArray[np.uint8]:
    """A gradient of 20 levels from top to bottom: smooth everywhere."""
    column = np.linspace(level - 10, level + 10, side)
    return np.broadcast_to(column[:, None, None], (side, side, 3)).round().astype(np.uint8).copy()


def added(photo: NDArray[np.uint8], change: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.uint8]:
    return np.clip(photo + np.rint(change), 0, 255).astype(np.uint8)


def blotches(side: int, period: int, levels: float) -> NDArray[np.float64]:
    """A square pattern of this period, in pixels."""
    wave = np.sin(2 * np.pi * np.arange(side) / period)
    return levels * np.sign(np.outer(wave, wave))[..., None] * np.ones(3)


def test_nothing_changed_is_nothing() -> None:
    found = smooth_change(sky(), sky())
    assert (found.worst_levels, found.visible_share, found.smooth_share) == (0, 0, 1)


def test_blotches_are_seen_and_noise_as_large_is_not() -> None:
    photo = sky()
    noise = np.random.default_rng(0).choice([-6, 6], photo.shape)
    fine, coarse = smooth_change(photo, added(photo, noise)), smooth_change(photo, added(photo, blotches(512, 48, 6)))
    assert coarse.worst_levels > 4
    assert coarse.visible_share > 0.7
    assert fine.worst_levels < 1
    assert fine.visible_share < 0.02


@pytest.mark.parametrize("period", [40, 48, 64])
def test_the_measure_is_in_levels(period: int) -> None:
    photo = sky()
    for levels in (2, 4):
        found = smooth_change(photo, added(photo, blotches(512, period, levels)))
        assert 0.5 * levels < found.worst_levels <= levels


def test_texture_hides_the_same_change() -> None:
    photo = added(sky(), np.random.default_rng(1).normal(0, 25, (512, 512, 3)))
    found = smooth_change(photo, added(photo, blotches(512, 48, 6)))
    assert (found.worst_levels, found.visible_share, found.smooth_share) == (0, 0, 0)


def test_the_worst_block_counts_and_not_the_mean() -> None:
    photo = sky()
    change = blotches(512, 48, 6)
    change[:, 64:] = 0  # an eighth of the photo
    found = smooth_change(photo, added(photo, change))
    assert found.worst_levels > 3
    assert found.visible_share < 0.15


def test_darkness_hides_a_change_that_middle_grey_shows() -> None:
    shares = [
        smooth_change(sky(level=level), added(sky(level=level), blotches(512, 48, 2))).visible_share
        for level in (128, 20)
    ]
    assert shares[0] > 0.4
    assert shares[1] == 0
    thresholds = just_noticeable(np.array([0, 127, 128, 255], np.float32))
    np.testing.assert_allclose(thresholds, [20, 3, 3.02, 6], atol=0.01)


def test_grey_photos_and_colour_photos_agree() -> None:
    photo, change = sky(), blotches(512, 48, 4)
    grey = smooth_change(photo[..., 0], added(photo, change)[..., 0])
    colour = smooth_change(photo, added(photo, change))
    assert grey.worst_levels == pytest.approx(colour.worst_levels, rel=1e-4)
    one_channel = change * np.array([1, 0, 0])
    assert 0 < smooth_change(photo, added(photo, one_channel)).worst_levels < colour.worst_levels


@pytest.mark.parametrize("shape", [(32, 32), (33, 500), (7, 9), (2100, 1500)])
def test_any_size_is_measured(shape: tuple[int, int]) -> None:
    photo = np.full((*shape, 3), 120, np.uint8)
    found = smooth_change(photo, photo + 3)
    assert found.worst_levels == pytest.approx(3, abs=0.1)
    assert (found.visible_share, found.smooth_share) == (1, 1)


def test_a_portrait_has_smooth_and_textured_areas() -> None:
    photo = np.ascontiguousarray(data.astronaut())
    found = smooth_change(photo, added(photo, blotches(512, 48, 4)))
    assert 0.1 < found.smooth_share < 0.9
    assert found.visible_share > 0.3


def test_it_costs_little() -> None:
    photo = np.ascontiguousarray(data.astronaut())
    after = added(photo, blotches(512, 48, 4))
    spent = []
    for _ in range(20):
        began = time.process_time()
        smooth_change(photo, after)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.006  # 2 ms alone on a core; the best of twenty on a busy machine

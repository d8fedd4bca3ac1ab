import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_photos import photograph

from rid.models.photo_files.resampling import (
    add_saturating,
    enlarge,
    from_upright,
    place_windows,
    shrink,
    strips,
    to_upright,
)

sides = st.integers(1, 400)
seeds = st.integers(0, 2**32 - 1)


@given(long=st.integers(64, 2000), overlap=st.floats(0, 0.75), wide=st.booleans(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_windows_cover_the_picture_and_a_bound_stays_a_bound(long: int, overlap: float, wide: bool, seed: int) -> None:
    side = 64
    shape = (side, long) if wide else (long, side)
    windows = place_windows(shape, side, overlap)
    assert windows.starts[0] == 0 and windows.starts[-1] == long - side
    steps = np.diff(windows.starts)
    assert (steps > 0).all() and (steps <= np.ceil(side * (1 - overlap)) + 1).all()
    squares = np.random.default_rng(seed).uniform(-6, 6, (len(windows.starts), 3, side, side)).astype(np.float32)
    joined = windows.join(squares, shape)
    assert joined.shape == (*shape, 3) and np.abs(joined).max() <= 6 * (1 + 1e-6)
    constant = windows.join(np.full_like(squares, 5), shape)
    np.testing.assert_allclose(constant, 5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (333, 64)])
def test_cutting_then_joining_gives_the_picture_back(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    windows = place_windows(shape, 64, 0.25)
    squares = windows.cut(picture)
    assert squares.dtype == np.float32 and squares.min() >= -1 and squares.max() <= 1
    np.testing.assert_allclose((windows.join(squares, shape) + 1) * 127.5, picture, atol=1e-3)


def test_there_is_no_seam_where_windows_meet() -> None:
    shape = (64, 300)
    windows = place_windows(shape, 64, 0.25)
    squares = np.zeros((len(windows.starts), 3, 64, 64), np.float32)
    squares[::2] = 6  # neighbours disagree as much as they can
    steps = np.abs(np.diff(windows.join(squares, shape)[0, :, 0]))
    assert steps.max() < 1.5


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (4000, 3001), (517, 513), (64, 64), (40, 90)])
def test_the_short_side_becomes_the_working_resolution(size: tuple[int, int]) -> None:
    width, height = size
    small = shrink(np.full((height, width, 3), 77, np.uint8), 64)
    assert min(small.shape[:2]) == 64
    assert small.shape[1] / small.shape[0] == pytest.approx(width / height, rel=0.02)
    assert (small == 77).all()


def test_shrinking_by_halves_is_the_antialiased_resize() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1536, 2304, 3), dtype=np.uint8)
    direct = cv2.resize(noise, (96, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(noise, 64).astype(int) - direct).max() <= 2  # rounded four times
    photo = np.asarray(photograph(2003, 1501))  # both sides are odd
    direct = cv2.resize(photo, (85, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(photo, 64).astype(int) - direct).mean() < 1
    stripes = np.tile(np.array([0, 255], np.uint8), (1024, 512))
    assert np.ptp(shrink(stripes, 64)) <= 1  # no moire


@pytest.mark.parametrize("native", [(64, 64), (500, 700), (40, 50), (1, 1)])
@pytest.mark.parametrize("budget", [1, 6, 16])
def test_enlarging_keeps_the_budget_and_follows_the_float_resize(native: tuple[int, int], budget: int) -> None:
    levels = np.random.default_rng(1).uniform(-budget, budget, (64, 64, 3)).astype(np.float32)
    result = enlarge(levels, native, budget)
    assert result.shape == (*native, 3) and result.dtype == np.int8
    assert np.abs(result.astype(int)).max() <= budget
    method = cv2.INTER_AREA if native[0] < 64 else cv2.INTER_CUBIC
    exact = np.clip(cv2.resize(levels, native[::-1], interpolation=method), -budget, budget)
    assert np.abs(result - exact).max() <= 0.51 or native == (1, 1)


def test_a_network_that_breaks_its_bound_is_clipped() -> None:
    wild = np.full((64, 64, 3), 1e9, np.float32)
    wild[::2] *= -1
    assert np.abs(enlarge(wild, (64, 64), 6).astype(int)).max() == 6
    assert np.abs(enlarge(wild, (200, 200), 6).astype(int)).max() == 6


@given(height=sides, width=sides, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_adding_saturates(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
    perturbation = rng.integers(-16, 17, (height, width)).astype(np.int8)
    expected = np.clip(pixels.astype(int) + perturbation, 0, 255)
    assert np.array_equal(add_saturating(pixels, perturbation), expected)


def test_strips_cover_every_row_once() -> None:
    for shape in [(1, 1), (3000, 4000, 3), (1, 500_000), (70_000, 2)]:
        rows = [row for part in strips(np.empty(shape, np.uint8)) for row in range(shape[0])[part]]
        assert rows == list(range(shape[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_back_undoes_turning(orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(from_upright(to_upright(pixels, orientation), orientation), pixels)

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from rid.training.evaluation.attackers.transforms import jpeg
from rid.training.evaluation.attackers.views import AS_IS, CUT_25, CUT_60, HALF, JPEG, VIEWS, view
from rid.training.evaluation.judges.identity import Face


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """(300, 451, 3): neither square nor even."""
    return np.ascontiguousarray(data.chelsea())


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("side", [64, 300, 512])
def test_every_view_is_a_square_of_the_attackers_side(name: str, side: int, photo: NDArray[np.uint8]) -> None:
    seen = view(photo, name, side)
    assert seen.shape == (side, side, 3)
    assert seen.dtype == np.uint8


def test_as_it_is_the_centre_square_is_seen(photo: NDArray[np.uint8]) -> None:
    assert np.array_equal(view(photo, AS_IS, 300), photo[:, 76:376])


def test_the_whole_photo_is_coded_before_the_square_is_cut(photo: NDArray[np.uint8]) -> None:
    assert np.array_equal(view(photo, JPEG, 300), jpeg(photo, 75)[:, 76:376])


def test_half_a_size_loses_what_is_fine(photo: NDArray[np.uint8]) -> None:
    noise = np.random.default_rng(0).choice([-16, 16], photo.shape)
    noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
    left = [float(np.abs(view(noisy, name, 300) - view(photo, name, 300).astype(int)).mean()) for name in (AS_IS, HALF)]
    assert left[1] < 0.7 * left[0]


@pytest.mark.parametrize(("name", "edge"), [(CUT_60, 180), (CUT_25, 75)])
def test_a_face_is_cut_around_its_place_and_enlarged(name: str, edge: int, photo: NDArray[np.uint8]) -> None:
    face = Face(250, 120, 90)
    top, left = round(120 - edge / 2), round(250 - edge / 2)
    square = photo[top : top + edge, left : left + edge]
    expected = cv2.resize(np.ascontiguousarray(square), (256, 256), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(view(photo, name, 256, face), expected)


def test_a_face_at_the_border_is_cut_inside_the_photo(photo: NDArray[np.uint8]) -> None:
    assert np.array_equal(view(photo, CUT_25, 75, Face(0, 0, 9)), photo[:75, :75])
    assert np.array_equal(view(photo, CUT_25, 75, Face(451, 300, 9)), photo[-75:, -75:])


def test_an_unknown_view_is_told(photo: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="view 'sideways' is unknown: one of as is, JPEG 75"):
        view(photo, "sideways", 64)

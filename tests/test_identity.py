import cv2
import numpy as np
import pytest
from skimage import data

from training.evaluation.identity import IdentitySpace, dlib_embedder, identity_space


def stranger(index: int) -> np.ndarray:
    """One of the small grey faces that scikit-image ships, each of another person, in a wider frame."""
    small = (np.clip(data.lfw_subset()[index], 0, 1) * 255).astype(np.uint8)
    face = cv2.cvtColor(cv2.resize(small, (150, 150), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    return cv2.copyMakeBorder(face, 50, 50, 50, 50, cv2.BORDER_REPLICATE)


def portrait(offset: int = 0, side: int = 64) -> np.ndarray:
    """A crop of one person's portrait, as small as the embedded models draw."""
    crop = data.astronaut()[offset : 220 + offset, 120 - offset : 340 - offset]
    return cv2.resize(np.ascontiguousarray(crop), (side, side), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def space() -> IdentitySpace:
    return identity_space(dlib_embedder(), [[stranger(index)] for index in range(16)])


def test_a_person_is_more_like_themself_than_like_others(space: IdentitySpace) -> None:
    person = space.person([portrait(0), portrait(10)])
    same = space.similarity([portrait(20), portrait(5, side=128)[:, ::-1]], person)
    others = space.similarity([stranger(index) for index in range(16, 24)], person)
    assert same.fdfr == 0
    assert same.ism > 0.6
    assert same.ism > others.ism + 0.5


def test_centring_opens_the_cone(space: IdentitySpace) -> None:
    found = [space.embedder.embed(stranger(index)) for index in range(16)]
    raw = np.stack([e / np.linalg.norm(e) for e in found if e is not None])
    cosines = (raw @ raw.T)[~np.eye(len(raw), dtype=bool)]
    assert cosines.mean() > 0.7
    assert abs(space.strangers) < 0.2


def test_a_picture_without_a_face_counts_as_a_stranger_never_as_zero(space: IdentitySpace) -> None:
    person = space.person([portrait()])
    empty = np.full((64, 64, 3), 120, np.uint8)
    found = space.similarity([empty, portrait(5)], person)
    alone = space.similarity([portrait(5)], person)
    assert found.fdfr == 0.5
    assert found.ism == pytest.approx((space.strangers + alone.ism) / 2)


def test_what_cannot_be_measured_gives_a_sentence(space: IdentitySpace) -> None:
    empty = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="no face was found on any of 1 photos"):
        space.person([empty])
    with pytest.raises(ValueError, match="at least two people"):
        identity_space(dlib_embedder(), [[portrait()], [empty]])

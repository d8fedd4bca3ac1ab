import cv2
import numpy as np
import pytest
from skimage import data

from rid.training.evaluation.judges.identity import IdentitySpace, dlib_embedder, identity_space_of


def stranger(index: int) -> np.ndarray:
    """One of the small grey faces that scikit-image ships, each of another person, in a wider frame."""
    small = (np.clip(data.lfw_subset()[index], 0, 1) * 255).astype(np.uint8)
    face = cv2.cvtColor(cv2.resize(small, (150, 150), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    return cv2.copyMakeBorder(face, 50, 50, 50, 50, cv2.BORDER_REPLICATE)


def portrait(offset: int = 0, side: int = 64) -> np.ndarray:
    """A crop of one person's portrait, as small as the embedded models draw."""
    crop = data.astronaut()[offset : 220 + offset, 120 - offset : 340 - offset]
    return cv2.resize(np.ascontiguousarray(crop), (side, side), interpolation=cv2.INTER_AREA)


def embedded(people: list[list[np.ndarray]]) -> list[list[np.ndarray | None]]:
    return [[dlib_embedder().embed(photo) for photo in photos] for photos in people]


@pytest.fixture(scope="module")
def space() -> IdentitySpace:
    people = embedded([[stranger(index)] for index in range(24)])
    return identity_space_of(dlib_embedder(), people[:16], people[16:])


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


def test_strangers_are_no_less_alike_than_they_are(space: IdentitySpace) -> None:
    """People whose mean is the centre point away from each other; that says nothing of other people."""
    random = np.random.default_rng(0)
    common = np.full(2048, 3.0)
    few, many = ([[common + random.normal(size=2048)] for _ in range(count)] for count in (3, 300))
    among_themselves = identity_space_of(space.embedder, few, few).strangers
    assert among_themselves == pytest.approx(-0.5, abs=0.05)
    assert identity_space_of(space.embedder, many, few).strangers == pytest.approx(0, abs=0.05)
    assert identity_space_of(space.embedder, few, many).strangers == pytest.approx(1 / 4, abs=0.05)


def test_photos_of_strangers_are_compared_with_means_of_people(space: IdentitySpace) -> None:
    centre = [[np.array([1.0, 0.0])], [np.array([-1.0, 0.0])]]
    first = [np.array([0.0, 2.0]), np.array([3.0, 0.0])]  # unit vectors up and right, their mean between them
    found = identity_space_of(space.embedder, centre, [first, [np.array([0.0, 1.0]), None]])
    assert found.strangers == pytest.approx(((1 + 0) / 2 + np.sqrt(0.5)) / 2)


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
    one, two = embedded([[portrait()], [empty]]), embedded([[portrait()], [stranger(0)]])
    with pytest.raises(ValueError, match="at least two people"):
        identity_space_of(space.embedder, one, two)
    with pytest.raises(ValueError, match="and of two others"):
        identity_space_of(space.embedder, two, one)

"""Face detection and recognition with dlib's models, and the metrics ISM and FDFR.

Embeddings are centred with the mean of a development set, because dlib's lie in a narrow cone: without it the cosine of
two different people is about 0.83.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

DETECTION_SIDE = 256  # pixels; smaller pictures are enlarged before a face is looked for


@dataclass(frozen=True)
class Face:
    """The box of a face: the centre and the width of its square, in pixels."""

    x: float
    y: float
    width: float


class FaceEmbedder(Protocol):
    """Anything that finds the largest face of a picture and describes it."""

    name: str

    def face(self, pixels: NDArray[np.uint8]) -> Face | None:
        """Returns the largest face of (H, W, 3) uint8 pixels, or None."""

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Returns a face embedding of (H, W, 3) uint8 pixels, or None if there is no face."""


class DlibEmbedder:
    """dlib's ResNet (99.3 % on LFW pairs) over its 5-point alignment and its HOG face detector."""

    name = "dlib ResNet v1"

    def __init__(self) -> None:
        import dlib

        folder = _models_folder()
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Returns a (128,) embedding of the largest face, or None."""
        picture = enlarged(pixels)
        shape = self._shape(picture)
        return None if shape is None else np.asarray(self._network.compute_face_descriptor(picture, shape))

    def landmarks(self, picture: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Returns the five landmarks (5, 2) of the largest face, or None.

        They are x and y of the outer and inner corner of the eye at the right of the picture, the same of the eye at
        the left, and where the nose meets the lip.
        """
        shape = self._shape(picture)
        return None if shape is None else np.array([(point.x, point.y) for point in shape.parts()], np.float64)

    def _shape(self, picture: NDArray[np.uint8]) -> Any:
        faces = self._detector(picture, 0)
        return self._landmarks(picture, max(faces, key=lambda box: box.area())) if faces else None

    def face(self, pixels: NDArray[np.uint8]) -> Face | None:
        """Returns the largest face, as it is detected at the photo's own size."""
        faces = self._detector(np.ascontiguousarray(pixels), 0)
        if not faces:
            return None
        box = max(faces, key=lambda found: found.area())
        return Face((box.left() + box.right()) / 2, (box.top() + box.bottom()) / 2, box.width())


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns (H, W, 3) pixels whose short side is at least DETECTION_SIDE."""
    scale = DETECTION_SIDE / min(pixels.shape[:2])
    if scale > 1:
        pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.ascontiguousarray(pixels)


@cache
def dlib_embedder() -> DlibEmbedder:
    """The embedder of this process.

    Raises:
        RuntimeError: if dlib or its models are not installed.
    """
    if find_spec("dlib") is None or find_spec("face_recognition_models") is None:
        raise RuntimeError("identity is measured with dlib: install the extra [evaluate]")
    return DlibEmbedder()


@dataclass(frozen=True)
class Similarity:
    """The likeness of drawn pictures to a person.

    Attributes:
        ism: mean cosine of the centred embeddings to the person's mean; a picture without a face counts as a stranger.
        fdfr: share of the pictures in which no face was found.
        faces: mean cosine of the pictures with a face alone; None without any.
    """

    ism: float
    fdfr: float
    faces: float | None


@dataclass(frozen=True)
class IdentitySpace:
    """Centred embeddings.

    Attributes:
        embedder: what describes a face.
        centre: mean embedding of the development set.
        strangers: mean cosine, in this space, of photos to the means of other people who are not of that set.
    """

    embedder: FaceEmbedder
    centre: NDArray[np.float64]
    strangers: float

    def embed(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64] | None]:
        """Returns a centred unit embedding a picture, or None where there is no face."""
        return self.centred([self.embedder.embed(picture) for picture in pictures])

    def centred(self, found: Sequence[NDArray[np.float64] | None]) -> list[NDArray[np.float64] | None]:
        """Returns the centred unit embeddings of raw ones."""
        return [None if embedding is None else _unit(embedding - self.centre) for embedding in found]

    def person(self, photos: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Returns the unit mean of a person's photos.

        Raises:
            ValueError: if no photo shows a face.
        """
        return self.person_of([self.embedder.embed(photo) for photo in photos])

    def person_of(self, found: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64]:
        """Returns the same from the raw embeddings of the photos."""
        faces = [embedding for embedding in self.centred(found) if embedding is not None]
        if not faces:
            raise ValueError(f"no face was found on any of {len(found)} photos of a person: leave that person out")
        return _unit(np.mean(faces, axis=0))

    def similarity(self, pictures: Sequence[NDArray[np.uint8]], person: NDArray[np.float64]) -> Similarity:
        """Compares pictures with a person."""
        return self.similarity_of([self.embedder.embed(picture) for picture in pictures], person)

    def similarity_of(self, found: Sequence[NDArray[np.float64] | None], person: NDArray[np.float64]) -> Similarity:
        """Compares the raw embeddings of pictures with a person."""
        faces = [float(face @ person) for face in self.centred(found) if face is not None]
        lost = len(found) - len(faces)
        ism = (sum(faces) + lost * self.strangers) / len(found)
        return Similarity(ism, lost / len(found), float(np.mean(faces)) if faces else None)


def identity_space_of(
    embedder: FaceEmbedder,
    development: Sequence[Sequence[NDArray[np.float64] | None]],
    others: Sequence[Sequence[NDArray[np.float64] | None]],
) -> IdentitySpace:
    """Builds the space from the raw embeddings of photos; one without a face has none.

    Args:
        embedder: what described the faces.
        development: embeddings by person; they are the centre.
        others: those of other people, who say how alike strangers are. The development people cannot: around their own
            mean they point away from each other (N of them have a mean cosine of about -1 / (N - 1)).

    Raises:
        ValueError: if fewer than two people of either set have a photo with a face.
    """
    centred_on, compared = (_people_with_faces(people) for people in (development, others))
    centre = np.mean([np.mean(photos, axis=0) for photos in centred_on], axis=0)  # (D,)
    units = [np.stack([_unit(photo - centre) for photo in photos]) for photos in compared]  # of P people, (N, D)
    means = np.stack([_unit(photos.mean(axis=0)) for photos in units])  # (P, D)
    cosines = np.stack([(photos @ means.T).mean(axis=0) for photos in units])  # (P, P), photos of a row's person
    return IdentitySpace(embedder, centre, float(cosines[~np.eye(len(means), dtype=bool)].mean()))


def _people_with_faces(people: Sequence[Sequence[NDArray[np.float64] | None]]) -> list[list[NDArray[np.float64]]]:
    found = [[embedding for embedding in embeddings if embedding is not None] for embeddings in people]
    found = [embeddings for embeddings in found if embeddings]
    if len(found) < 2:
        raise ValueError(
            "an identity space needs photos with faces of at least two people to centre on and of two others"
        )
    return found


def _unit(vector: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def _models_folder() -> Path:
    spec = find_spec("face_recognition_models")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "models"

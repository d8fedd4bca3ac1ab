"""Descriptions of a study's pictures by networks, kept apart from the attacks that made them.

Another face network describes pictures that are there already, so that nothing is attacked again. A description is
named by the network and by the pictures. N pictures.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rid.models.checkpoint import file_sha256
from rid.training.evaluation.judges.fid_inception import FEATURES, NAME, inception_features, load_inception
from rid.training.evaluation.judges.identity import FaceEmbedder


class Describer(Protocol):
    """A network and how its descriptions are stored."""

    def name_of(self, pictures: str) -> str:
        """Names the description of pictures that have a name."""

    def describe(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """Returns the description of (S, S, 3) pictures."""


@dataclass(frozen=True)
class Faces:
    """`embeddings`: raw embeddings of the largest faces, None where there is no face."""

    embedder: FaceEmbedder

    def name_of(self, pictures: str) -> str:
        """Names the description of pictures that have a name."""
        return f"faces-{_digest(self.embedder.name, pictures)}.json"

    def describe(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """Returns the description of (S, S, 3) pictures."""
        found = [self.embedder.embed(picture) for picture in pictures]
        return {"embedder": self.embedder.name, "embeddings": [_listed(embedding) for embedding in found]}


class InceptionLook:
    """`features`: of FID's Inception, (N, 2048) float32 in base64."""

    def __init__(self, file: Path) -> None:
        self._weights = file_sha256(file)
        self._network = load_inception(file)

    def name_of(self, pictures: str) -> str:
        """Names the description of pictures that have a name."""
        return f"inception-{_digest(self._weights, pictures)}.json"

    def describe(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """Returns the description of (S, S, 3) pictures."""
        found = inception_features(self._network, pictures)  # (N, 2048)
        return {"extractor": NAME, "features": base64.b64encode(found.tobytes()).decode()}


def embeddings_of(description: Mapping[str, Any]) -> list[NDArray[np.float64] | None]:
    """The face embeddings of a description."""
    return [None if found is None else np.array(found) for found in description["embeddings"]]


def features_of(description: Mapping[str, Any]) -> NDArray[np.float32]:
    """The (N, 2048) features of a description."""
    return np.frombuffer(base64.b64decode(description["features"]), np.float32).reshape(-1, FEATURES)


def without(description: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Returns the description without its first pictures."""
    rest: dict[str, Any] = {"embeddings": description["embeddings"][count:]}
    if "features" in description:
        rest["features"] = base64.b64encode(features_of(description)[count:].tobytes()).decode()
    return rest


def _digest(network: str, pictures: str) -> str:
    return hashlib.sha256(f"{network}\n{pictures}".encode()).hexdigest()[:40]


def _listed(embedding: NDArray[np.float64] | None) -> list[float] | None:
    return None if embedding is None else [round(float(value), 6) for value in embedding]

"""The Frechet distance of two sets of pictures (Heusel et al., arXiv 1706.08500, equation 6).

With Inception's features it is FID; any other description of pictures is named beside its number. N pictures, D
features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frechet:
    """A distance and what it is of; with few pictures it is too high: only equal counts compare.

    Attributes:
        value: the distance.
        extractor: what described the pictures.
        drawn: pictures on the one side.
        real: pictures on the other.
    """

    value: float
    extractor: str
    drawn: int
    real: int


def frechet_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Returns |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of (N, D) and (M, D) features.

    With C = A^T A the last trace is the nuclear norm of A_x A_y^T, an (N, M) matrix: exact for fewer pictures than
    features, where a matrix root needs a correction.

    Raises:
        ValueError: if a side has fewer than two pictures, or the features differ in number.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"a Frechet distance needs two pictures on each side, got features {x.shape} and {y.shape}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    roots = [(side - side.mean(axis=0)) / np.sqrt(len(side) - 1) for side in (x, y)]  # C = A^T A
    shared = np.linalg.svd(_reduced(roots[0]) @ _reduced(roots[1]).T, compute_uv=False).sum()
    return max(0.0, float(means + sum(np.square(root).sum() for root in roots) - 2 * shared))


def frechet(x: NDArray[np.floating], y: NDArray[np.floating], extractor: str) -> Frechet | None:
    """Compares drawn with real pictures, or returns None where a side has fewer than two."""
    if min(len(x), len(y)) < 2:
        return None
    return Frechet(frechet_distance(x, y), extractor, len(x), len(y))


def _reduced(root: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns at most D rows with the same A^T A."""
    return np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root

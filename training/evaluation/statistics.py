"""Paired bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval.

    Attributes:
        mean: of the sample.
        low: lower end.
        high: upper end.
        count: size of the sample.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_ratio(
    numerators: NDArray[np.floating],
    denominators: NDArray[np.floating],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Returns the ratio of the means of two paired (N,) samples and its interval.

    Raises:
        ValueError: if there are fewer than two values, or not as many of both.
    """
    if numerators.shape != denominators.shape or numerators.ndim != 1 or len(numerators) < 2:
        raise ValueError("a ratio's interval needs two samples of the same two or more things")
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(numerators), (resamples, len(numerators)))
    ratios = numerators[drawn].mean(axis=1) / denominators[drawn].mean(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Interval(float(numerators.mean() / denominators.mean()), float(low), float(high), len(numerators))


def bootstrap_mean_of_ratios(
    numerators: NDArray[np.floating],
    denominators: NDArray[np.floating],
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Returns the mean over K rows of the ratio of the means of paired (K, N) samples, and its interval over N.

    Raises:
        ValueError: if there are fewer than two values a row, or not as many of both.
    """
    if numerators.shape != denominators.shape or numerators.ndim != 2 or numerators.shape[1] < 2:
        raise ValueError("a mean of ratios needs two (K, N) samples of the same two or more things")
    drawn = np.random.default_rng(seed).integers(0, numerators.shape[1], (resamples, numerators.shape[1]))
    ratios = (numerators[:, drawn].mean(axis=2) / denominators[:, drawn].mean(axis=2)).mean(axis=0)  # (resamples,)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [tail, 100 - tail])
    mean = float((numerators.mean(axis=1) / denominators.mean(axis=1)).mean())
    return Interval(mean, float(low), float(high), numerators.shape[1])


def bootstrap_mean(
    values: NDArray[np.floating], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Returns the mean of (N,) values and its interval; pass differences for a paired comparison.

    Raises:
        ValueError: if there are fewer than two values.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least two values, got an array of shape {values.shape}")
    random = np.random.default_rng(seed)
    means = np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))

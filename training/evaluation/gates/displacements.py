"""Displacement of protected photos and of the controls beside them, photo by photo, and the table of it.

N photos, K spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rid.training.evaluation.attackers.views import AS_IS, VIEWS
from rid.training.evaluation.effect.latent_displacement import Yardstick
from rid.training.evaluation.gates.whole_photos import FIXED, NOISE, STRANGERS, STRIPES, SUBTRACTED, ProtectedPhotos
from rid.training.evaluation.statistics import Interval, bootstrap_mean, bootstrap_mean_of_ratios

# By row and space, (N,) displacements.
Displacements = Mapping[str, Mapping[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class DisplacementTable:
    """The effect of protection in some latent spaces; intervals are over photos.

    Attributes:
        displacement: by row and space, in units of channel variance.
        over_noise: by space, displacement over that of noise of equal norm.
        over_noise_mean: the mean of that over spaces.
        left: by view, what is left of the displacement as is, a mean over spaces.
        shares: by control, its displacement over that of the protection, a mean over spaces.
    """

    displacement: Mapping[str, Mapping[str, Interval]]
    over_noise: Mapping[str, Interval]
    over_noise_mean: Interval | None
    left: Mapping[str, Interval]
    shares: Mapping[str, Interval]


def measure_part(
    protected: ProtectedPhotos, rulers: Sequence[Yardstick], rows: Sequence[str], part: range, *, seed: int = 0
) -> dict[str, dict[str, list[float]]]:
    """Measures a part of the photos.

    Args:
        protected: the photos.
        rulers: spaces and their units.
        rows: what is measured.
        part: which photos.
        seed: of the controls.

    Returns:
        By row and space, a displacement a photo.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        pixels = protected.seen(row, part, seed)
        origin = row if row in VIEWS else AS_IS
        found[row] = {
            ruler.name: ruler.displacements(protected.clean.latents(ruler, origin, part), pixels).tolist()
            for ruler in rulers
        }
    return found


def join_parts(
    parts: Sequence[Mapping[str, Mapping[str, Sequence[float]]]],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Returns the (N,) displacements by row and space of parts in order."""
    return {
        row: {space: np.concatenate([np.asarray(part[row][space], np.float64) for part in parts]) for space in spaces}
        for row, spaces in parts[0].items()
    }


def tabulate(found: Displacements, *, seed: int = 0) -> DisplacementTable:
    """Returns the table of what was measured; ratios are left out whose rows were not."""
    spaces = list(found[AS_IS])

    def ratio(row: str, over: str, among: Sequence[str]) -> Interval:
        above, below = (np.stack([found[name][space] for space in among]) for name in (row, over))  # (K, N)
        return bootstrap_mean_of_ratios(above, below, seed=seed)

    noise = NOISE in found
    return DisplacementTable(
        displacement={
            row: {space: bootstrap_mean(values, resamples=2_000, seed=seed) for space, values in by_space.items()}
            for row, by_space in found.items()
        },
        over_noise={space: ratio(AS_IS, NOISE, [space]) for space in spaces} if noise else {},
        over_noise_mean=ratio(AS_IS, NOISE, spaces) if noise else None,
        left={row: ratio(row, AS_IS, spaces) for row in (*VIEWS[1:], SUBTRACTED) if row in found},
        shares={row: ratio(row, AS_IS, spaces) for row in (NOISE, STRIPES, FIXED, STRANGERS) if row in found},
    )

"""Measurement, on workers, of how far protection moves published photos in a latent space, against noise.

It is measured end to end, on the files: both versions of a photo are decoded, and their upright centre squares are
resized to the side at which models are taught, as an attacker would. Noise is matched in norm there.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rid.assets.frozen.spaces import load_spaces
from rid.assets.reports.effect import LookTask
from rid.assets.reports.figures import csv_cell
from rid.models.upright_photos import centre_square
from rid.resources.frozen.latent_spaces import SpaceSource
from rid.training.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio

COLUMNS = ("key", "space", "displacement", "noise")


@dataclass(frozen=True)
class SpaceTask(LookTask):
    """One latent space and the photos to measure in it.

    Attributes:
        space: the space.
        side: in pixels, of the squares.
        seed: of the noise.
    """

    space: SpaceSource
    side: int
    seed: int


@dataclass(frozen=True)
class SpaceEffect:
    """The effect of protection in one latent space; displacements are in units of channel variance of the clean photos.

    Attributes:
        space: its name.
        side: in pixels, of the squares that were encoded.
        photos: number of photos.
        displacement: mean over photos.
        noise: the same by Gaussian noise of equal norm.
        over_noise: the ratio of the two means.
        rows: key, displacement and noise of each photo.
    """

    space: str
    side: int
    photos: int
    displacement: Interval = field(hash=False)
    noise: Interval = field(hash=False)
    over_noise: Interval = field(hash=False)
    rows: tuple[tuple[str, float, float], ...] = field(repr=False)

    @property
    def beats_noise(self) -> bool:
        """True if protection moves the photos farther than noise does, beyond the interval."""
        return self.over_noise.low > 1

    def values(self) -> dict[str, Any]:
        """Returns the figures as JSON values, without photos' names."""
        intervals = {
            name: {"mean": one.mean, "low": one.low, "high": one.high}
            for name, one in (
                ("displacement", self.displacement),
                ("noise", self.noise),
                ("over_noise", self.over_noise),
            )
        }
        measured = {"space": self.space, "side": self.side, "photos": self.photos}
        return {**measured, **intervals, "beats_noise": self.beats_noise}


def measure_displacement(task: SpaceTask) -> SpaceEffect | str:
    """Returns what was measured, or one sentence that says why nothing was measured."""
    if importlib.util.find_spec("torch") is None:
        return "not measured: the worker has no torch; install the extra [train] there"
    from rid.training.evaluation.effect.latent_displacement import encode_pixels, yardsticks
    from rid.training.evaluation.gates.whole_photos import noise_like

    pairs = [
        (pair.key, centre_square(pair.clean, task.side), centre_square(pair.protected, task.side))
        for pair in task.pairs()
    ]
    if len(pairs) < 2:
        return f"not measured: an interval needs two protected photos whose originals can be read, found {len(pairs)}"
    keys = [key for key, _, _ in pairs]
    clean, protected = (np.stack([pair[place] for pair in pairs]) for place in (1, 2))
    noisy = np.stack(
        [noise_like(*both, task.seed + index) for index, both in enumerate(zip(clean, protected, strict=True))]
    )
    (space,) = load_spaces([task.space])
    (ruler,) = yardsticks([space], clean)
    origin = encode_pixels(space, clean)
    moved, by_noise = ruler.displacements(origin, protected), ruler.displacements(origin, noisy)
    return SpaceEffect(
        space=task.space.name,
        side=task.side,
        photos=len(pairs),
        displacement=bootstrap_mean(moved, seed=task.seed),
        noise=bootstrap_mean(by_noise, seed=task.seed),
        over_noise=bootstrap_ratio(moved, by_noise, seed=task.seed),
        rows=tuple(zip(keys, moved.tolist(), by_noise.tolist(), strict=True)),
    )


def displacement_csv(effects: Sequence[SpaceEffect]) -> bytes:
    """Returns a CSV file with a line a photo and space."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for effect in effects:
        for key, moved, by_noise in effect.rows:
            writer.writerow([csv_cell(key), csv_cell(effect.space), f"{moved:.5f}", f"{by_noise:.5f}"])
    return text.getvalue().encode()

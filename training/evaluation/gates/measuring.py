"""Measures the figures that a defender is judged by, on photos that the command's own code protects whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rid.models.engines import Engine
from rid.models.latent_space import LatentSpace
from rid.models.photo_files.smooth_areas import smooth_change
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.models.upright_photos import upright_rgb
from rid.training.evaluation.attackers.views import AS_IS
from rid.training.evaluation.effect.latent_displacement import Yardstick, yardsticks
from rid.training.evaluation.gates.displacements import join_parts, measure_part, tabulate
from rid.training.evaluation.gates.figures import GateFigures, LookFigures, SideFigures, SpaceFigures
from rid.training.evaluation.gates.whole_photos import (
    FIXED,
    GATE_ROWS,
    NOISE,
    STRANGERS,
    SUBTRACTED,
    CleanPhotos,
    Pixels,
    ProtectedPhotos,
    protect_whole,
    scaled_file,
)
from rid.training.evaluation.judges.perceptual import PerceptualMissing, perceptual_distances
from rid.training.evaluation.statistics import bootstrap_mean

BATCH = 8  # photos that are measured at a time


@dataclass(frozen=True)
class GateMeasurement:
    """Settings of a measurement of a defender.

    Attributes:
        sides: in pixels; photos are scaled to each, then protected.
        budgets: in 8-bit levels.
        default_budget: at which the look is measured.
        seed: of noise and dither.
    """

    sides: tuple[int, ...]
    budgets: tuple[int, ...]
    default_budget: int
    seed: int = 0


@dataclass(frozen=True)
class JudgedSpace:
    """A latent space, and whether the defender claims to protect there."""

    space: LatentSpace
    claimed: bool


def measure_defender(
    engine: Engine,
    photos: Sequence[bytes],
    people: Sequence[str],
    spaces: Sequence[JudgedSpace],
    how: GateMeasurement,
    say: Callable[[str], None],
) -> GateFigures:
    """Measures a defender.

    Args:
        engine: runs its network.
        photos: files.
        people: who is on each.
        spaces: where it is judged.
        how: at which sides and budgets.
        say: is told of every step.

    Raises:
        ValueError: if there are fewer than two people, or a photo cannot be read or protected.
    """
    names = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in photos)).hexdigest()
    found: list[SideFigures] = []
    look = None
    for side in how.sides:
        files = [scaled_file(data, side) for data in photos]
        whole = [picture for picture in map(upright_rgb, files) if picture is not None]
        clean = CleanPhotos(whole, side, people)
        rulers = yardsticks([one.space for one in spaces], clean.as_is)
        if side == max(how.sides):
            look = _look(whole, protect_whole(files, _protector(engine, how.default_budget)), how.default_budget, side)
        found += _measure_side(engine, files, clean, rulers, [one.claimed for one in spaces], how, say)
    return GateFigures(len(photos), len(set(people)), names, engine.name, tuple(found), look)


def _measure_side(
    engine: Engine,
    files: Sequence[bytes],
    clean: CleanPhotos,
    rulers: Sequence[Yardstick],
    claimed: Sequence[bool],
    how: GateMeasurement,
    say: Callable[[str], None],
) -> Iterator[SideFigures]:
    """Yields the figures of each budget; a part's clean latents serve all budgets."""
    protected = {
        budget: ProtectedPhotos(clean, protect_whole(files, _protector(engine, budget))) for budget in how.budgets
    }
    parts: dict[int, list[dict[str, dict[str, list[float]]]]] = {budget: [] for budget in how.budgets}
    for start in range(0, len(clean), BATCH):
        part = range(start, min(len(clean), start + BATCH))
        for budget, photos in protected.items():
            parts[budget].append(measure_part(photos, rulers, GATE_ROWS, part, seed=how.seed))
        say(f"{clean.side} px: {part.stop} of {len(clean)} photos")
    for budget, photos in protected.items():
        table = tabulate(join_parts(parts[budget]), seed=how.seed)
        yield SideFigures(
            side=clean.side,
            budget_levels=budget,
            spaces=tuple(
                SpaceFigures(
                    name=ruler.name,
                    encoder=ruler.space.digest,
                    claimed=claims,
                    displacement=table.displacement[AS_IS][ruler.name],
                    noise=table.displacement[NOISE][ruler.name],
                    over_noise=table.over_noise[ruler.name],
                )
                for ruler, claims in zip(rulers, claimed, strict=True)
            ),
            cosine=bootstrap_mean(photos.cosines(), resamples=2_000, seed=how.seed),
            common_share=photos.common_share(),
            fixed_pattern=table.shares[FIXED],
            strangers=table.shares[STRANGERS],
            left=table.left[SUBTRACTED],
        )


def _look(clean: Sequence[Pixels], protected: Sequence[Pixels], budget: int, side: int) -> LookFigures:
    pairs = list(zip(clean, protected, strict=True))
    smooth = [smooth_change(before, after) for before, after in pairs]
    error = [float(np.square(after.astype(np.float64) - before).mean()) for before, after in pairs]
    try:
        distances = perceptual_distances(pairs)
        distance, name = float(np.median(distances.values)), distances.name
    except PerceptualMissing as missing:
        distance, name = None, str(missing)
    return LookFigures(
        budget_levels=budget,
        side=side,
        worst_levels=float(np.median([one.worst_levels for one in smooth])),
        visible_share=float(np.median([one.visible_share for one in smooth])),
        psnr=float(10 * np.log10(255**2 / max(float(np.median(error)), 1e-12))),
        distance=distance,
        distance_name=name,
    )


def _protector(engine: Engine, budget: int) -> Protector:
    return Protector(engine, ProtectionPolicy(), budget)

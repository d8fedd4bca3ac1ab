"""The figures by which a defender is judged, and the gates that they have to pass; needs no torch.

The figures are kept in the defender's card (config.json, "measured"). The card's digest covers architecture and
weights alone: figures do not change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rid.training.evaluation.statistics import Interval

MEASURED = "measured"  # the field of config.json


@dataclass(frozen=True)
class SpaceFigures:
    """Displacement in one latent space, over photos.

    Attributes:
        name: of the space.
        encoder: digest of what encodes.
        claimed: whether the defender claims to protect there; else it was not trained on it.
        displacement: mean squared shift in units of channel variance.
        noise: the same by noise of equal norm.
        over_noise: ratio of the two.
    """

    name: str
    encoder: str
    claimed: bool
    displacement: Interval
    noise: Interval
    over_noise: Interval


@dataclass(frozen=True)
class SideFigures:
    """Figures of one side and one budget; shares are means over spaces.

    Attributes:
        side: in pixels, of the photos and of the attacker.
        budget_levels: in 8-bit levels.
        spaces: by space.
        cosine: between perturbations of different photos.
        common_share: share of their energy in the one direction that they have most in common, whatever its sign.
        fixed_pattern: displacement by the sign of the mean of others' perturbations, over the defender's.
        strangers: displacement by another photo's perturbation, over the defender's.
        left: what blind subtraction leaves of the displacement.
    """

    side: int
    budget_levels: int
    spaces: tuple[SpaceFigures, ...]
    cosine: Interval
    common_share: float
    fixed_pattern: Interval
    strangers: Interval
    left: Interval


@dataclass(frozen=True)
class LookFigures:
    """The look of protected photos at the default budget, medians over photos.

    Attributes:
        budget_levels: in 8-bit levels.
        side: of the photos, in pixels.
        worst_levels: of `rid.models.photo_files.smooth_areas.SmoothChange`.
        visible_share: the same.
        psnr: in dB.
        distance: the perceptual distance, if one could be measured.
        distance_name: what it is.
    """

    budget_levels: int
    side: int
    worst_levels: float
    visible_share: float
    psnr: float
    distance: float | None
    distance_name: str


@dataclass(frozen=True)
class GateFigures:
    """All that a defender is judged by, measured on photos that the command's own code protected whole.

    Attributes:
        photos: how many.
        people: how many are on them.
        photos_digest: sha256 of the photos' digests.
        engine: what computed the perturbations.
        sides: by side and budget.
        look: in smooth areas and by a perceptual distance.
    """

    photos: int
    people: int
    photos_digest: str
    engine: str
    sides: tuple[SideFigures, ...]
    look: LookFigures | None

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; numbers have five digits."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GateFigures:
        """Reads what `to_json` returned.

        Raises:
            ValueError: with one sentence, if a field is missing or unknown.
        """
        try:
            sides = tuple(_side(side) for side in values["sides"])
            look = LookFigures(**values["look"]) if values["look"] is not None else None
            return cls(**{**values, "sides": sides, "look": look})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the figures in the defender's card cannot be read ({type(error).__name__}: {error}): measure it again"
            ) from error


def figures_in(config: Mapping[str, Any]) -> GateFigures | None:
    """Returns the figures of a defender's config.json, or None if there are none.

    Raises:
        ValueError: if they cannot be read.
    """
    values = config.get(MEASURED)
    return GateFigures.from_json(values) if values is not None else None


@dataclass(frozen=True)
class Gates:
    """Figures that a defender has to reach.

    Attributes:
        over_noise: displacement over that of noise of equal norm, at least, in every space that it claims, and in one
            that it was not trained on.
        sides: at which this has to hold, in pixels.
        cosine: between perturbations of different photos, at most.
        fixed_pattern: share of one fixed pattern, at most.
        left: after blind subtraction, at least.
        photos: that were measured, at least.
    """

    over_noise: float = 2.0
    sides: tuple[int, ...] = (256, 512)
    cosine: float = 0.3
    fixed_pattern: float = 0.3
    left: float = 0.7
    photos: int = 64


GATES = Gates()


def failures(figures: GateFigures, gates: Gates = GATES) -> list[str]:
    """Returns what does not pass the gates, each with its figures; nothing if all is well."""
    found = []
    if figures.photos < gates.photos:
        found.append(f"it was measured on {figures.photos} photos where {gates.photos} are asked for")
    missing = sorted(set(gates.sides) - {side.side for side in figures.sides})
    if missing:
        found.append(f"it was not measured at {' and '.join(str(side) for side in missing)} px")
    for side in figures.sides:
        found += [f"at {side.side} px and +-{side.budget_levels} {problem}" for problem in _problems(side, gates)]
    if figures.look is None:
        found.append("its look in smooth areas was not measured")
    return found


def verdict(figures: GateFigures | None, gates: Gates = GATES) -> str:
    """Returns one line: whether a defender passes, and on what."""
    if figures is None:
        return "not measured: `rid defenders measure` does it"
    problems = failures(figures, gates)
    measured = f"measured on {figures.photos} photos of {figures.people} people"
    return f"fails, {measured}: {'; '.join(problems)}" if problems else f"passed, {measured}"


def summary(figures: GateFigures) -> list[str]:
    """Returns the figures as lines of text, a side and budget each, and the look."""
    lines = []
    for side in figures.sides:
        spaces = ", ".join(
            f"{one.name}{'' if one.claimed else ' (not trained on)'} {one.over_noise.mean:.2f}" for one in side.spaces
        )
        lines.append(
            f"{side.side} px, +-{side.budget_levels}: times noise of equal norm: {spaces}; "
            f"cosine {side.cosine.mean:.2f}, in one direction {side.common_share:.0%}, "
            f"fixed pattern {side.fixed_pattern.mean:.0%}, another's {side.strangers.mean:.0%}, "
            f"left after blind subtraction {side.left.mean:.2f}"
        )
    look = figures.look
    if look is not None:
        distance = f", {look.distance_name} {look.distance:.4f}" if look.distance is not None else ""
        lines.append(
            f"look at +-{look.budget_levels}, {look.side} px: smooth areas {look.worst_levels:.1f} levels, "
            f"{look.visible_share:.0%} of them visible; PSNR {look.psnr:.1f} dB{distance}"
        )
    return lines


def _problems(side: SideFigures, gates: Gates) -> list[str]:
    found = []
    weak = [one for one in side.spaces if one.claimed and not one.over_noise.mean >= gates.over_noise]
    if weak:
        figures = ", ".join(f"{one.name} {one.over_noise.mean:.2f}" for one in weak)
        found.append(f"it moves latents less than {gates.over_noise:g} times as far as noise of equal norm ({figures})")
    others = [one for one in side.spaces if not one.claimed]
    if not any(one.claimed for one in side.spaces):
        found.append("no space that it claims was measured")
    if not others:
        found.append("no space that it was not trained on was measured")
    elif not max(one.over_noise.mean for one in others) >= gates.over_noise:
        figures = ", ".join(f"{one.name} {one.over_noise.mean:.2f}" for one in others)
        found.append(f"it does that in no space that it was not trained on, where one is asked for ({figures})")
    if not side.cosine.mean <= gates.cosine:
        found.append(
            f"its perturbations of different photos have a cosine of {side.cosine.mean:.2f} (at most {gates.cosine:g})"
        )
    if not side.fixed_pattern.mean <= gates.fixed_pattern:
        found.append(
            f"one fixed pattern does {side.fixed_pattern.mean:.0%} of what it does (at most {gates.fixed_pattern:.0%})"
        )
    if not side.left.mean >= gates.left:
        found.append(f"blind subtraction leaves {side.left.mean:.2f} of it (at least {gates.left:g})")
    return found


def _side(values: Mapping[str, Any]) -> SideFigures:
    intervals = {name: Interval(**values[name]) for name in ("cosine", "fixed_pattern", "strangers", "left")}
    spaces = tuple(
        SpaceFigures(**{**space, **{name: Interval(**space[name]) for name in ("displacement", "noise", "over_noise")}})
        for space in values["spaces"]
    )
    return SideFigures(**{**values, **intervals, "spaces": spaces})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(one) for one in value]
    return value

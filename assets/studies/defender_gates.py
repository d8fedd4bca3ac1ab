"""The gates of a defender: its figures are measured, kept in its card, and asked for before it is promoted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rid.assets.frozen.spaces import load_spaces
from rid.assets.studies.measured_photos import MeasuredPhotos
from rid.resources.defender_registry import DefenderEntry, DefenderRegistry, fetch_defender
from rid.resources.frozen.latent_spaces import SpaceSource
from rid.training.evaluation.gates.figures import GATES, GateFigures, Gates, failures, figures_in, summary


class GatesFailed(ValueError):
    """A defender may not be promoted; the message says why, with its figures."""


@dataclass(frozen=True)
class Measuring:
    """Settings of a measurement: what a defender is measured on, and how.

    Attributes:
        photos: files, and who is on them.
        claimed: the spaces in which it claims to protect.
        unseen: spaces that it was not trained on.
        sides: in pixels.
        budgets: in 8-bit levels; empty takes its default.
        seed: of noise and dither.
    """

    photos: MeasuredPhotos
    claimed: Sequence[SpaceSource]
    unseen: Sequence[SpaceSource]
    sides: tuple[int, ...] = GATES.sides
    budgets: tuple[int, ...] = ()
    seed: int = 0


def measure(entry: DefenderEntry, what: Measuring, say: Callable[[str], None]) -> GateFigures:
    """Measures a defender with the ONNX file that protects.

    Args:
        entry: the defender.
        what: photos, spaces, sides and budgets.
        say: is told of every step.

    Raises:
        ValueError: if it has no ONNX file, was not trained for a budget, was trained on a space that is called unseen,
            or a photo or a space cannot be read.
    """
    from rid.models.engines import OnnxEngine
    from rid.training.evaluation.gates.measuring import GateMeasurement, JudgedSpace, measure_defender

    for source in what.unseen:
        if {source.name, Path(source.location).name} & _trained_on(entry):
            raise ValueError(
                f"defender {entry.name} was trained on the latent space {source.name}, which is therefore not unseen: "
                "name another with --unseen"
            )
    budgets = tuple(entry.budget(budget) for budget in what.budgets) or (entry.budget(None),)
    name = entry.onnx_file
    model = fetch_defender(entry.location, entry.digest, {name: entry.config["files"][name]})[name]
    spaces = load_spaces([*what.claimed, *what.unseen])
    judged = [JudgedSpace(space, number < len(what.claimed)) for number, space in enumerate(spaces)]
    how = GateMeasurement(what.sides, budgets, entry.budget(None), what.seed)
    return measure_defender(OnnxEngine(model), what.photos.files, what.photos.people, judged, how, say)


def _trained_on(entry: DefenderEntry) -> set[str]:
    """The names of the models and spaces in the card of a training."""
    training = entry.config.get("training", {})
    return {str(name) for field in ("models", "spaces") for name in training.get(field, [])}


def promote(
    registry: DefenderRegistry, name: str, *, although_it_fails: bool = False, gates: Gates = GATES
) -> DefenderEntry:
    """Makes a defender the default if it passes its gates, or if that is asked for knowingly.

    Raises:
        GatesFailed: if it was not measured or fails.
    """
    entry = registry.resolve(name)
    if not although_it_fails:
        check_gates(entry, gates)
    return registry.promote(name)


def check_gates(entry: DefenderEntry, gates: Gates = GATES) -> None:
    """Holds a defender against its gates.

    Raises:
        GatesFailed: if it was not measured or fails.
    """
    figures = figures_in(entry.config)
    if figures is None:
        raise GatesFailed(
            f"defender {entry.name} ({entry.digest[:12]}) was never measured: run `rid defenders measure` on it first, "
            "or promote it although it fails"
        )
    problems = failures(figures, gates)
    if problems:
        raise GatesFailed(
            f"defender {entry.name} ({entry.digest[:12]}) fails its gates: {'; '.join(problems)}. Its figures: "
            f"{' | '.join(summary(figures))}; choose another, or promote it although it fails"
        )

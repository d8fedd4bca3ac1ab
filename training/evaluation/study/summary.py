"""From the units of a study to its table: ISM, FDFR, gain and effect with paired intervals over people.

gain = ISM(clean) - ISM(untrained); effect = ISM(clean) - ISM(protected), against the same attacker with the same
transformation. Where the gain's interval includes 0 nobody was learned, and nothing can be said of any protection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rid.training.evaluation.cells import CLEAN, DEFENDER, NOISE, TEACHER, UNTRAINED, Cell
from rid.training.evaluation.judges.fid_inception import NAME as INCEPTION
from rid.training.evaluation.judges.frechet import Frechet, frechet
from rid.training.evaluation.judges.identity import FaceEmbedder, IdentitySpace, identity_space_of
from rid.training.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio
from rid.training.evaluation.study.descriptions import embeddings_of, features_of


@dataclass(frozen=True)
class CellSummary:
    """The result of one cell.

    Attributes:
        cell: the cell.
        ism: over people.
        fdfr: mean over people.
        faces: similarity of the drawings with a face alone, over the people who have any; None for fewer than two.
        gain: of personalisation in this cell; only for clean cells.
        effect: of the protection; only for protected cells.
        of_gain: effect over gain; None where the gain's interval includes 0.
        survival: effect over the base cell's; only for rows that differ from it by one factor, and in which the attack
            succeeds on clean photos.
        quality: means of picture measures by name.
        frechet: of all people's drawings from all their other photos.
        protecting_seconds: CPU time of protecting a person's photos, a mean.
    """

    cell: Cell
    ism: Interval
    fdfr: float
    faces: Interval | None = None
    gain: Interval | None = None
    effect: Interval | None = None
    of_gain: Interval | None = None
    survival: Interval | None = None
    quality: Mapping[str, float] | None = None
    frechet: Frechet | None = None
    protecting_seconds: float = 0.0

    @property
    def void(self) -> bool:
        """True if the attack failed on clean photos: the cell says nothing."""
        return self.gain is not None and self.gain.low <= 0


@dataclass(frozen=True)
class StudySummary:
    """A study's table.

    Attributes:
        cells: those that were measured on at least two people.
        people: names.
        comparisons: paired differences and ratios by what they say.
        void: whether the base gain's interval includes 0.
    """

    cells: Sequence[CellSummary]
    people: Sequence[str]
    comparisons: Mapping[str, Interval]
    void: bool

    @property
    def worst_case(self) -> CellSummary | None:
        """Of the rows at the base budget that differ by one factor, the one that least of the effect survives.

        Rows in which the attack fails on clean photos too do not count; None without any row that does.
        """
        base = next(row.cell for row in self.cells if row.cell.kind == DEFENDER)
        rows = [row for row in self.cells if row.survival and row.cell.budget == base.budget]
        return min(rows, key=lambda row: row.survival.mean if row.survival else 0.0, default=None)


def space_of(
    embedder: FaceEmbedder, development: Sequence[Mapping[str, Any]], studied: Sequence[Mapping[str, Any]]
) -> IdentitySpace:
    """Builds the identity space from the descriptions of the development people, and of those who are studied."""
    return identity_space_of(
        embedder, [embeddings_of(person) for person in development], [embeddings_of(person) for person in studied]
    )


def summarise(
    cells: Sequence[Cell], units: Mapping[tuple[str, str], Mapping[str, Any]], space: IdentitySpace
) -> StudySummary:
    """Summarises a study over the people for whom every cell was measured.

    Args:
        cells: in the order of the table, with references and untrained cells before what is compared with them.
        units: by cell key and person: a unit's content with the descriptions of its drawings, and under `references`
            those of the person's photos that were not learned from.
        space: of the embeddings.

    Raises:
        ValueError: if fewer than two people were measured under every cell.
    """
    names = sorted({person for _, person in units})
    people = [name for name in names if all((cell.key, name) in units for cell in cells)]
    if len(people) < 2:
        raise ValueError(f"a study needs two people that were measured under every cell; found {len(people)}")
    ism: dict[str, NDArray[np.float64]] = {}
    rows = []
    base = next(cell for cell in cells if cell.kind == DEFENDER)
    for cell in cells:
        here = [units[cell.key, name] for name in people]
        similar = [
            space.similarity_of(embeddings_of(unit), space.person_of(embeddings_of(unit["references"])))
            for unit in here
        ]
        ism[cell.key] = np.array([one.ism for one in similar])
        shared = {
            "fdfr": float(np.mean([one.fdfr for one in similar])),
            "faces": _over_people([one.faces for one in similar]),
            "quality": _means([unit["quality"] for unit in here]),
            "frechet": _frechet(here, space.embedder.name),
            "protecting_seconds": float(np.mean([unit["protecting_seconds"] for unit in here])),
        }
        rows.append(_row(cell, base, ism, shared))
    return StudySummary(rows, people, _comparisons(cells, base, ism), next(row.void for row in rows if row.gain))


def _row(cell: Cell, base: Cell, ism: Mapping[str, NDArray[np.float64]], shared: Mapping[str, Any]) -> CellSummary:
    values = ism[cell.key]
    if cell.kind == UNTRAINED:
        return CellSummary(cell, bootstrap_mean(values), **shared)
    gains = ism[cell.reference.key] - ism[cell.untrained.key]
    gain = bootstrap_mean(gains)
    if cell.kind == CLEAN:
        return CellSummary(cell, bootstrap_mean(values), gain=gain, **shared)
    effects = ism[cell.reference.key] - values
    of_gain = bootstrap_ratio(effects, gains) if gain.low > 0 else None
    survival = None
    if cell.kind == DEFENDER and cell != base and cell.name == base.name and of_gain:
        base_effects = ism[base.reference.key] - ism[base.key]
        survival = bootstrap_ratio(effects, base_effects) if bootstrap_mean(base_effects).low > 0 else None
    return CellSummary(
        cell, bootstrap_mean(values), effect=bootstrap_mean(effects), of_gain=of_gain, survival=survival, **shared
    )


def _comparisons(cells: Sequence[Cell], base: Cell, ism: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """Differences in effect of the base cell from noise, each teacher and other defenders at the same budget."""
    effects = {cell.key: ism[cell.reference.key] - ism[cell.key] for cell in cells if cell.kind != UNTRAINED}
    found: dict[str, Interval] = {}
    for cell in cells:
        same = (cell.budget, cell.share, cell.transform, cell.model, cell.recipe)
        if cell == base or same != (base.budget, base.share, base.transform, base.model, base.recipe):
            continue
        if cell.kind in (NOISE, TEACHER, DEFENDER):
            label = "noise of equal norm" if cell.kind == NOISE else cell.name
            found[f"{base.name} minus {label}"] = bootstrap_mean(effects[base.key] - effects[cell.key])
    return found


def _over_people(values: Sequence[float | None]) -> Interval | None:
    known = np.array([value for value in values if value is not None])
    return bootstrap_mean(known) if len(known) > 1 else None


def _means(qualities: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of what was measured of everybody."""
    shared = [name for name in qualities[0] if all(name in quality for quality in qualities)]
    return {name: float(np.mean([quality[name] for quality in qualities])) for name in shared}


def _frechet(units: Sequence[Mapping[str, Any]], embedder: str) -> Frechet | None:
    """FID where Inception described the pictures; else the same distance of face embeddings, where faces were found."""
    if all("features" in unit for unit in units):
        drawn, real = ([features_of(one) for one in side] for side in _sides(units))
        return frechet(np.concatenate(drawn), np.concatenate(real), INCEPTION)
    found = [[face for one in side for face in embeddings_of(one) if face is not None] for side in _sides(units)]
    return frechet(np.array(found[0]), np.array(found[1]), embedder)


def _sides(units: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The descriptions of drawings, and those of photos."""
    return list(units), [unit["references"] for unit in units]

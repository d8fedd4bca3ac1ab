"""A study as one HTML page without external resources: verdict, tables, plot, and pictures only if asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rid.assets.reports.html_templates import html_template
from rid.assets.studies.analysis_pictures import analysis_picture
from rid.assets.studies.pictures import cells_picture

if TYPE_CHECKING:
    from rid.training.evaluation.cells import Cell
    from rid.training.evaluation.effect.perturbation_analysis import Analysis
    from rid.training.evaluation.study.summary import CellSummary, StudySummary

NOISE_SHARE, EFFECT_SHARE, TEACHER_SHARE = 0.2, 0.6, 0.95  # what is aimed for
MEASURES = {"psnr": "PSNR, dB", "ssim": "SSIM", "brisque": "BRISQUE, photos", "drawn_brisque": "BRISQUE, drawn"}
BRISQUES = ("brisque", "drawn_brisque")  # of the photos that the attacker gets, and of what he draws


@dataclass(frozen=True)
class StudyPage:
    """The content of a page.

    Attributes:
        summary: the table.
        analysis: of the photos of the base cells.
        figures: everything else that was recorded.
        strips: PNG strips in base64 by cell key and person; none leaves the contact sheet out.
    """

    summary: StudySummary
    analysis: Analysis
    figures: Mapping[str, Any]
    strips: Mapping[tuple[str, str], str] = field(repr=False)


@dataclass(frozen=True)
class Aim:
    """One aim: what was reached, and whether that is enough."""

    text: str
    reached: str
    met: bool


def label(cell: Cell) -> str:
    """Returns the name of a cell in tables and plots."""
    from rid.training.evaluation.cells import CLEAN, NOISE, UNTRAINED

    kinds = {UNTRAINED: "before personalisation", CLEAN: "clean photos", NOISE: "noise of equal norm"}
    name = kinds.get(cell.kind, cell.name)
    parts = [f"{name} ±{cell.budget}" if cell.budget else name]
    if cell.transform:
        parts.append(f"then {cell.transform}")
    if cell.share != 1:
        parts.append(f"{cell.share:.0%} of the photos")
    if cell.recipe != "dreambooth_64":
        parts.append(cell.recipe.removesuffix("_64").replace("_", " "))
    if cell.model != "embedded-64":
        parts.append(f"on {cell.model}")
    return ", ".join(parts)


def measures(rows: Sequence[CellSummary]) -> dict[str, str]:
    """Names of BRISQUE, and before it of the other picture measures that some cell has, and what they are called."""
    others = dict.fromkeys(name for row in rows for name in row.quality or {} if name not in BRISQUES)
    return {name: MEASURES.get(name, name) for name in (*others, *BRISQUES)}


def brisque_remark(rows: Sequence[CellSummary]) -> str:
    """One sentence on what has no BRISQUE and how to get it, or "" where the drawings of every cell have it."""
    from rid.training.evaluation.judges.brisque_fit import INSTALL, PACKAGE

    if all("drawn_brisque" in (row.quality or {}) for row in rows):
        return ""
    return (
        f"Rows without BRISQUE were measured where the package {PACKAGE} is missing, or on pictures of one colour: "
        f"after {INSTALL}, a study in a new folder has it."
    )


def aims(summary: StudySummary) -> list[Aim]:
    """Compares the base cells with what is aimed for; of a void study only the first is said."""
    from rid.training.evaluation.cells import DEFENDER, NOISE, TEACHER

    clean = next(row for row in summary.cells if row.gain)
    found = [Aim("personalisation on clean photos learns the identity", f"gain {clean.gain}", not summary.void)]
    if summary.void:
        return found
    base = next(row for row in summary.cells if row.cell.kind == DEFENDER)
    assert base.effect and base.of_gain and clean.gain
    found.append(
        Aim(f"effect at least {EFFECT_SHARE:.0%} of the gain", str(base.of_gain), base.of_gain.mean >= EFFECT_SHARE)
    )
    same = [row for row in summary.cells if row.cell.budget == base.cell.budget and row.effect]
    for row in same:
        if row.cell.kind == NOISE and row.effect and base.effect.mean > 0:
            share = row.effect.mean / base.effect.mean
            text = f"noise of equal norm at most {NOISE_SHARE:.0%} of its effect"
            found.append(Aim(text, f"{share:.0%}: {row.effect} to {base.effect}", share <= NOISE_SHARE))
    teachers = [row for row in same if row.cell.kind == TEACHER and row.effect]
    if teachers:
        best = max(teachers, key=lambda row: row.effect.mean if row.effect else 0.0)
        assert best.effect
        share = base.effect.mean / best.effect.mean if best.effect.mean > 0 else float("inf")
        text = f"effect at least {TEACHER_SHARE:.0%} of the best teacher's"
        found.append(Aim(text, f"{share:.0%} of {best.cell.name}'s {best.effect}", share >= TEACHER_SHARE))
        if base.protecting_seconds:
            times = best.protecting_seconds / base.protecting_seconds
            found.append(
                Aim("one pass instead of an optimisation", f"{times:.0f} times faster than {best.cell.name}", True)
            )
    return found + _aims_beside(summary, base)


def _aims_beside(summary: StudySummary, base: CellSummary) -> list[Aim]:
    """Compares the judged defender with the others at its budget: effect, and how the photos look."""
    found = []
    for row in summary.cells:
        if row is base or replace(base.cell, name=row.cell.name) != row.cell:
            continue
        more = summary.comparisons[f"{base.cell.name} minus {row.cell.name}"]
        found.append(Aim(f"effect no worse than {row.cell.name}'s", f"{more} more", more.mean >= 0))
        mine, its = base.quality or {}, row.quality or {}
        for name in sorted(mine.keys() & its.keys()):
            if "LPIPS" in name:  # LPIPS itself or ST-LPIPS, by its network
                reached = f"{mine[name]:.3f} to {its[name]:.3f}"
                found.append(Aim(f"better {name} than {row.cell.name}", reached, mine[name] < its[name]))
    return found


def render_study(page: StudyPage) -> bytes:
    """Returns the page in UTF-8."""
    from markupsafe import Markup

    rows = page.summary.cells
    text: str = html_template("studies/study.html.jinja").render(
        page=page,
        figures=page.figures,
        rows=rows,
        label=label,
        measures=measures(rows),
        brisque_remark=brisque_remark(rows),
        aims=aims(page.summary),
        analysed=[(label(version.cell), version) for version in page.analysis.versions],
        analysis_plot=Markup(
            analysis_picture(page.analysis, [label(one.cell) for one in page.analysis.versions], "svg").decode()
        ),
        plot=Markup(cells_picture([(label(row.cell), row.ism, row.cell.kind) for row in rows], "svg").decode()),
    )
    return text.encode()

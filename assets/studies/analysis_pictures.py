"""The plots of a study's analysis: diffusion loss by time step, its raise by each protection, and the spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rid.assets.reports.pictures import ACCENT, INK, WARM, PictureFormat, drawn, figure_of

if TYPE_CHECKING:
    from rid.training.evaluation.effect.perturbation_analysis import Analysis
    from rid.training.evaluation.statistics import Interval

COLOURS = {
    "clean": (INK,),
    "noise": (WARM,),
    "defender": (ACCENT, "#5fb3bb", "#123f44"),
    "teacher": ("#7a5aa6", "#b58900"),
}
LINES = {"clean": "-", "noise": ":", "defender": "-", "teacher": "--"}


def analysis_picture(analysis: Analysis, labels: Sequence[str], kind: PictureFormat) -> bytes:
    """Draws means and 95 % bands over photos.

    Args:
        analysis: what was found.
        labels: of its versions.
        kind: "svg" or "png".
    """
    figure, axes = figure_of(1, 3, (11, 3.4))
    loss, raised, spectrum = axes.flat
    seen: dict[str, int] = {}
    for version, label in zip(analysis.versions, labels, strict=True):
        of_kind = version.cell.kind
        colours = COLOURS[of_kind]
        colour = colours[seen.get(of_kind, 0) % len(colours)]
        seen[of_kind] = seen.get(of_kind, 0) + 1
        for axis, places, values in (
            (loss, analysis.times, version.losses),
            (raised, analysis.times, version.raised),
            (spectrum, range(1, 1 + len(version.spectrum or ())), version.spectrum),
        ):
            if values:
                _band(axis, places, values, colour, LINES[of_kind], label)
    loss.set_ylabel("diffusion loss")
    raised.set_ylabel("change from clean photos")
    for axis in (loss, raised):
        axis.set_xlabel("time step, share of T")
    spectrum.set_xlabel("cycles a side")
    spectrum.set_ylabel("power, squared levels")
    spectrum.set_yscale("log")
    handles, texts = loss.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return drawn(figure, kind)


def _band(axis: Any, places: Sequence[float], values: Sequence[Interval], colour: str, line: str, label: str) -> None:
    axis.plot(places, [one.mean for one in values], line, color=colour, linewidth=1.5, label=label)
    axis.fill_between(
        places, [one.low for one in values], [one.high for one in values], color=colour, alpha=0.15, linewidth=0
    )

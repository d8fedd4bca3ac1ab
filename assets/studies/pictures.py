"""The plot of a study: identity similarity by cell, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rid.assets.reports.pictures import ACCENT, INK, PALE, WARM, PictureFormat, drawn, figure_of

if TYPE_CHECKING:
    from rid.training.evaluation.statistics import Interval

COLOURS = {"untrained": INK, "clean": INK, "noise": WARM, "teacher": WARM, "defender": ACCENT}


def cells_picture(rows: Sequence[tuple[str, Interval, str]], kind: PictureFormat) -> bytes:
    """Draws the mean and the interval of each cell, from the top.

    Args:
        rows: label, similarity and kind of each cell.
        kind: "svg" or "png".
    """
    figure, axes = figure_of(1, 1, (8, 0.9 + 0.3 * len(rows)))
    axis = axes.flat[0]
    for position, (_, interval, cell) in enumerate(rows):
        below, above = interval.mean - interval.low, interval.high - interval.mean
        axis.errorbar(interval.mean, position, xerr=[[below], [above]], fmt="o", color=COLOURS[cell], capsize=3)
    axis.axvline(0, color=PALE, linewidth=1, zorder=0)
    axis.set_yticks(range(len(rows)), [text for text, _, _ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top, no margin that grows with the rows
    axis.set_xlabel("similarity to the person: mean, 95 % interval over people")
    return drawn(figure, kind)

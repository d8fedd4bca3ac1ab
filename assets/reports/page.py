"""The report as one HTML page that opens without a server, prints, and escapes everything that came from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from rid.assets.reports.displacement import SpaceEffect
from rid.assets.reports.effect import ModelEffect
from rid.assets.reports.figures import LISTED, DropFigures
from rid.assets.reports.html_templates import html_template
from rid.assets.reports.pictures import amplification
from rid.resources.defender_registry import DefenderEntry

MEASURE_NAMES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "smooth_levels": "change of the worst smooth area (sky, cheek), levels",
    "visible_share": "share of the smooth areas where it is seen",
    "survival_gain": "share of the perturbation that survives encoding",
    "survival_cosine": "cosine of the decoded and the intended perturbation",
}


@dataclass(frozen=True)
class Page:
    """The content of a page.

    Attributes:
        drop: its name.
        source: where the photos came from.
        table: URL of the receipts.
        version: of the table.
        figures: the numbers.
        defender: what protected; None if it is not known here any more, or nothing is protected.
        effects: what was measured on frozen models.
        moved: what was measured in latent spaces.
        gates: whether the defender passes its gates, in words, or "".
        remarks: why something was not measured on models.
        look_remark: why no perceptual distance was measured, or "".
        draws: time steps a photo.
        quality_svg: our own drawing, or "".
        effect_svg: our own drawing, or "".
        losses_svg: our own drawing, or "".
        sheet: the contact sheet as JPEG, or None.
        sheet_names: names of the photos on it, from the top.
        rows: name of the CSV file beside the page.
    """

    drop: str
    source: str
    table: str
    version: int
    figures: DropFigures
    defender: DefenderEntry | None
    effects: Sequence[ModelEffect]
    moved: Sequence[SpaceEffect]
    gates: str
    remarks: Sequence[str]
    look_remark: str
    draws: int
    quality_svg: str = field(repr=False)
    effect_svg: str = field(repr=False)
    losses_svg: str = field(repr=False)
    sheet: bytes | None = field(repr=False)
    sheet_names: Sequence[str]
    rows: str


def render(page: Page) -> bytes:
    """Returns the page in UTF-8."""
    from markupsafe import Markup

    sheet = base64.b64encode(page.sheet).decode() if page.sheet else ""
    text: str = html_template("reports/report.html.jinja").render(
        page=page,
        figures=page.figures,
        share=lambda count: f"{100 * count / page.figures.photos:.1f} %",
        measure_names=MEASURE_NAMES,
        listed=LISTED,
        amplification=amplification(page.figures.budget_levels),
        quality_svg=Markup(page.quality_svg),
        effect_svg=Markup(page.effect_svg),
        losses_svg=Markup(page.losses_svg),
        sheet=sheet,
    )
    return text.encode()

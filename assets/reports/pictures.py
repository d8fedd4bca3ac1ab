"""The pictures of a report: contact sheet, quality, what protection does to a model's loss, and the training."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.assets.reports.pairs import PhotoPair
from rid.models.photo_files.resampling import shrink

if TYPE_CHECKING:
    from rid.assets.reports.effect import ModelEffect

PictureFormat = Literal["svg", "png"]

TILE = 220  # pixels, the short side of a photo in the contact sheet
GAP = 8
INK, ACCENT, PALE, WARM = "#22303c", "#1f6f78", "#c9d6df", "#d1603d"
LOSSES = (
    ("adv_sds", "Adv-SDS", ACCENT),
    ("regression", "regression to the teacher", WARM),
    ("displacement", "latent displacement", INK),
    ("spaces", "displacement in latent spaces (negative logarithm) with penalties", INK),
)
MEASURES = {"psnr": "PSNR, dB", "ssim": "SSIM"}


def amplification(budget_levels: int) -> int:
    """Returns the factor at which a change of the whole budget fills half the range of a picture."""
    return 127 // budget_levels


def strip(pair: PhotoPair, budget_levels: int, tile: int = TILE) -> NDArray[np.uint8]:
    """Returns clean, protected and amplified difference beside each other, (h, 3 w + gaps, 3) uint8.

    The difference is taken at native size, centred on grey and amplified; then all three are made smaller alike.
    """
    change = pair.protected.astype(np.int16) - pair.clean
    amplified = np.clip(change * amplification(budget_levels) + 128, 0, 255).astype(np.uint8)
    parts = [shrink(part, min(tile, *part.shape[:2])) for part in (pair.clean, pair.protected, amplified)]
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def contact_sheet(pairs: Sequence[PhotoPair], budget_levels: int) -> NDArray[np.uint8]:
    """Returns one strip a photo, below each other, (H, W, 3) uint8."""
    strips = [strip(pair, budget_levels) for pair in pairs]
    width = max(part.shape[1] for part in strips)
    rows = []
    for part in strips:
        missing = width - part.shape[1]
        rows.append(cv2.copyMakeBorder(part, 0, GAP, 0, missing, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.concatenate(rows)


def jpeg(picture: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encodes an RGB picture with full chroma: half of it would hide what is shown."""
    import simplejpeg

    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality, colorsubsampling="444"))


def quality_picture(measures: Mapping[str, NDArray[np.float32]], kind: PictureFormat) -> bytes:
    """Draws how PSNR and SSIM are spread over the protected photos.

    Args:
        measures: values by name; those of MEASURES are drawn.
        kind: "svg" or "png".
    """
    # Finding a layout takes as long as all of the drawing, and every drop is drawn.
    figure, axes = figure_of(1, len(MEASURES), (8, 2.4), layout=None)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.23, top=0.96, wspace=0.18)
    for axis, (name, label) in zip(axes.flat, MEASURES.items(), strict=True):
        values = measures[name]
        axis.hist(values, bins=min(40, max(5, len(values) // 4)), color=ACCENT)
        axis.axvline(float(np.median(values)), color=WARM, linewidth=1.5)
        axis.set_xlabel(f"{label} (line: median {np.median(values):.3g})")
        axis.set_ylabel("photos")
        axis.yaxis.get_major_locator().set_params(integer=True)
    return drawn(figure, kind)


def effect_picture(effects: Sequence[ModelEffect], kind: PictureFormat) -> bytes:
    """Draws, for each model, the raise of the diffusion loss by protection and by noise of equal norm."""
    figure, axes = figure_of(1, 1, (8, 0.7 + 0.85 * len(effects)))
    axis = axes.flat[0]
    labels, position = [], 0
    for effect in effects:
        for name, interval, colour in (
            ("protected", effect.protected, ACCENT),
            ("Gaussian noise", effect.gaussian, WARM),
            ("random signs", effect.signs, WARM),
        ):
            below, above = interval.mean - interval.low, interval.high - interval.mean
            axis.errorbar(interval.mean, position, xerr=[[below], [above]], fmt="o", color=colour, capsize=3)
            labels.append(f"{effect.model}: {name}")
            position += 1
    axis.axvline(0, color=PALE, linewidth=1, zorder=0)
    axis.set_yticks(range(position), labels)
    axis.invert_yaxis()
    axis.set_xlabel("change of the diffusion loss, mean and 95 % interval over photos")
    return drawn(figure, kind)


def losses_picture(losses: Mapping[str, Sequence[float]], kind: PictureFormat) -> bytes:
    """Draws the losses of a defender's training by step; one that was not trained with is left out.

    Args:
        losses: as `rid.training.run_log.summarise_losses` returns them and a defender's card keeps them.
        kind: "svg" or "png".
    """
    figure, axes = figure_of(1, 1, (8, 2.6))
    axis = axes.flat[0]
    for name, label, colour in LOSSES:
        if any(losses.get(name, ())):
            axis.plot(losses["step"], losses[name], label=label, color=colour, linewidth=1.2)
    axis.axhline(0, color=PALE, linewidth=1, zorder=0)
    axis.set_xlabel("training step")
    axis.set_ylabel("weighted loss")
    axis.legend(frameon=False, fontsize=9)
    return drawn(figure, kind)


def figure_of(
    rows: int, columns: int, size: tuple[float, float], layout: Literal["constrained"] | None = "constrained"
) -> Any:
    """Returns a figure and its (rows, columns) axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.tick_params(colors=INK, labelsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawn(figure: Any, kind: PictureFormat) -> bytes:
    """Returns a figure as a file."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "rid", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()

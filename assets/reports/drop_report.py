"""Makes the report of a drop: figures from its receipts, pictures, what protection does to frozen models, one page.

The asset protection_report and `rid report` are both this. A report is made of its inputs alone and is kept under
their digest, so that a report of an unchanged drop is found and not made again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rid.assets.catalog.plan import DropCatalog
from rid.assets.reports.displacement import SpaceEffect, SpaceTask, displacement_csv, measure_displacement
from rid.assets.reports.effect import LookTask, MeasureTask, ModelEffect, measure_look, measure_protection
from rid.assets.reports.figures import DropFigures, read_figures, spread
from rid.assets.reports.page import Page, render
from rid.assets.reports.pairs import PhotoPair, photo_pairs
from rid.assets.reports.pictures import contact_sheet, effect_picture, jpeg, losses_picture, quality_picture
from rid.resources.commits import ProtectedTable
from rid.resources.dask_workers import Workers
from rid.resources.defender_registry import DefenderEntry
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.frozen.latent_spaces import SpaceSource
from rid.resources.storage import Storage
from rid.training.evaluation.gates.figures import figures_in, verdict
from rid.training.evaluation.judges.perceptual import PerceptualDistances

REPORT_EPOCH = 4  # raised when a report of the same inputs has to look different
SPACE_SIDE = 512  # pixels; people's models are taught on squares of at least this side
PAGE, ROWS, FIGURES, SHEET, QUALITY, EFFECT, DISPLACEMENT = (
    "index.html",
    "photos.csv",
    "report.json",
    "contact_sheet.jpg",
    "quality.png",
    "effect.png",
    "displacement.csv",
)


@dataclass(frozen=True)
class ReportRequest:
    """A request for a report: on which drop, and how.

    Attributes:
        table: of protected photos or of receipts.
        target: where a folder target keeps its files.
        drop: its name.
        catalog: the drop's catalog.
        folder: where the report goes.
        models: frozen models whose diffusion loss is measured; none leaves that out.
        spaces: latent spaces in which displacement is measured; none leaves that out.
        space_side: in pixels, of the squares that are encoded there.
        photos: protected photos that are measured.
        shown: photos on the contact sheet; 0 leaves it out, for privacy.
        draws: time steps a photo.
        seed: of the sample, the time steps and the noise.
        find_defender: looks a digest up.
    """

    table: ProtectedTable
    target: Storage
    drop: str
    catalog: DropCatalog
    folder: Storage
    models: tuple[DiffusionSource, ...]
    photos: int
    shown: int
    draws: int
    seed: int
    find_defender: Callable[[str], DefenderEntry | None] = field(compare=False)
    spaces: tuple[SpaceSource, ...] = ()
    space_side: int = SPACE_SIDE

    def digest(self) -> str:
        """sha256 of everything that the report is made of."""
        parts = {
            "epoch": REPORT_EPOCH,
            "shards": sorted(self.table.live_files(self.drop)),
            "catalog": self.catalog.url,
            "models": [model.digest() for model in self.models],
            "spaces": [[space.name, space.digest()] for space in self.spaces],
            "numbers": [self.photos, self.shown, self.draws, self.seed, self.space_side],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DropReport:
    """A report that lies in its folder.

    Attributes:
        url: of its page.
        made: whether this run made it.
        figures: its numbers, as JSON values.
    """

    url: str
    made: bool
    figures: dict[str, Any] = field(hash=False)


def report_drop(request: ReportRequest, workers: Workers) -> DropReport:
    """Makes the report, or finds it.

    Raises:
        ValueError: if the drop has no rows.
    """
    digest = request.digest()
    page = request.folder.uri(PAGE)
    if request.folder.exists(FIGURES):
        found = json.loads(request.folder.read_bytes(FIGURES))
        if found["inputs"] == digest and found["gates"] == _gates(request, found["defender_digest"]):
            return DropReport(page, False, found)
    figures = _read(request)
    effects, remarks = _measure(request, figures, workers)
    moved, more = _measure_spaces(request, figures, workers)
    remarks += more
    pairs = _pairs(request, figures)
    figures, look_remark = _with_look(request, figures, workers)
    defender = request.find_defender(figures.defender_digest) if figures.defender_digest else None
    gates = _gates(request, figures.defender_digest)
    losses = defender.config.get("training", {}).get("losses") if defender else None
    files = _pictures(figures, pairs, effects)
    if moved:
        files[DISPLACEMENT] = displacement_csv(moved)
    files[PAGE] = render(
        Page(
            drop=request.drop,
            source=request.catalog.source,
            table=request.table.url,
            version=request.table.version(),
            figures=figures,
            defender=defender,
            effects=effects,
            moved=moved,
            gates=gates,
            remarks=remarks,
            look_remark=look_remark,
            draws=request.draws,
            quality_svg=_svg(files.pop("quality.svg", None)),
            effect_svg=_svg(files.pop("effect.svg", None)),
            losses_svg=_svg(losses_picture(losses, "svg") if losses else None),
            sheet=files.get(SHEET),
            sheet_names=[pair.key for pair in pairs],
            rows=ROWS,
        )
    )
    for stale in (SHEET, QUALITY, EFFECT, DISPLACEMENT):
        if stale not in files and request.folder.exists(stale):
            request.folder.discard(stale)
    for name in sorted(files):
        request.folder.write_bytes(name, files[name])
    values = _values(figures, effects, remarks) | {"displacement": [one.values() for one in moved], "gates": gates}
    values |= {"inputs": digest}
    request.folder.write_bytes(FIGURES, (json.dumps(values, indent=2) + "\n").encode())
    return DropReport(page, True, values)


def _gates(request: ReportRequest, digest: str) -> str:
    """Returns whether a defender passes its gates, in words; "" for one that is not known here."""
    defender = request.find_defender(digest) if digest else None
    return verdict(figures_in(defender.config)) if defender else ""


def _read(request: ReportRequest) -> DropFigures:
    """Reads the receipts once: the figures are returned, the rows become the CSV file beside the page."""
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / ROWS
        with rows.open("w", newline="", encoding="utf-8") as file:
            figures = read_figures(request.table, request.drop, max(request.photos, request.shown), request.seed, file)
        if not figures.photos:
            raise ValueError(f"drop {request.drop!r} has no rows yet: protect it first")
        request.folder.write_file(ROWS, rows)
    return figures


def _measure(request: ReportRequest, figures: DropFigures, workers: Workers) -> tuple[list[ModelEffect], list[str]]:
    """Measures each model in a task of its own; what cannot be measured is said in a sentence."""
    keys = tuple(figures.sample[: request.photos])
    tasks = [
        MeasureTask(
            receipts_url=request.table.url,
            target_url=request.target.url,
            drop=request.drop,
            catalog=request.catalog,
            keys=keys,
            source=model,
            draws=request.draws,
            seed=request.seed,
        )
        for model in request.models
        if len(keys) > 1
    ]
    effects: dict[DiffusionSource, ModelEffect] = {}
    remarks = [] if request.models or request.spaces else ["No model was named: nothing was measured."]
    if request.models and not tasks:
        remarks = [f"Not measured: an interval needs two protected photos, the drop has {len(keys)}."]
    for done in workers.run(measure_protection, tasks, prefix="measure", expected=len(tasks), gpu=True):
        if isinstance(done.result, ModelEffect):
            effects[done.task.source] = done.result
        else:
            remarks.append((done.result or "not measured: the worker died").capitalize())
    return [effects[task.source] for task in tasks if task.source in effects], remarks


def _measure_spaces(
    request: ReportRequest, figures: DropFigures, workers: Workers
) -> tuple[list[SpaceEffect], list[str]]:
    """Measures each latent space in a task of its own; what cannot be measured is said in a sentence."""
    keys = tuple(figures.sample[: request.photos])
    if request.spaces and len(keys) < 2:
        return [], [f"No displacement was measured: an interval needs two protected photos, the drop has {len(keys)}."]
    common = (request.table.url, request.target.url, request.drop, request.catalog, keys)
    tasks = [SpaceTask(*common, space, request.space_side, request.seed) for space in request.spaces]
    effects: dict[str, SpaceEffect] = {}
    remarks = []
    for done in workers.run(measure_displacement, tasks, prefix="displace", expected=len(tasks), gpu=True):
        name = done.task.space.name
        if isinstance(done.result, SpaceEffect):
            effects[name] = done.result
        else:
            remarks.append(f"{name}: {done.result or 'not measured: the worker died'}")
    return [effects[space.name] for space in request.spaces if space.name in effects], remarks


def _with_look(request: ReportRequest, figures: DropFigures, workers: Workers) -> tuple[DropFigures, str]:
    """Adds the sample's perceptual distance to the figures, or returns a sentence that says why it was not measured."""
    keys = tuple(figures.sample[: request.photos])
    if not keys or not (request.models or request.spaces):
        return figures, ""
    task = LookTask(request.table.url, request.target.url, request.drop, request.catalog, keys)
    (done,) = workers.run(measure_look, [task], prefix="look", expected=1, gpu=True)
    if not isinstance(done.result, PerceptualDistances):
        return figures, f"{done.result or 'No perceptual distance was measured: the worker died'}."
    if not len(done.result.values):
        return figures, "No perceptual distance was measured: no original can be read."
    found = spread(done.result.values, worst="most")
    return replace(figures, measures={**figures.measures, done.result.name: found}), ""


def _pairs(request: ReportRequest, figures: DropFigures) -> list[PhotoPair]:
    keys = figures.sample[: request.shown]
    return list(photo_pairs(request.table, request.target, request.drop, request.catalog, keys)) if keys else []


def _pictures(figures: DropFigures, pairs: list[PhotoPair], effects: list[ModelEffect]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if "psnr" in figures.measures and "ssim" in figures.measures:
        measures = {name: figures.measures[name].values for name in ("psnr", "ssim")}
        files[QUALITY], files["quality.svg"] = (quality_picture(measures, kind) for kind in ("png", "svg"))
    if effects:
        files[EFFECT], files["effect.svg"] = (effect_picture(effects, kind) for kind in ("png", "svg"))
    if pairs:
        files[SHEET] = jpeg(contact_sheet(pairs, figures.budget_levels))
    return files


def _svg(data: bytes | None) -> str:
    """The drawing itself, without the XML prologue that has no place inside a page."""
    text = (data or b"").decode()
    return text[text.find("<svg") :] if text else ""


def _values(figures: DropFigures, effects: list[ModelEffect], remarks: list[str]) -> dict[str, Any]:
    return {
        "photos": figures.photos,
        **{name: figures.status.get(name, 0) for name in ("protected", "skipped", "quarantined")},
        "reasons": dict(figures.reasons),
        "bytes_in": figures.bytes_in,
        "bytes_out": figures.bytes_out,
        "budget_levels": figures.budget_levels,
        "largest_change_levels": figures.largest_change,
        "defender_digest": figures.defender_digest,
        "policy_digest": figures.policy_digest,
        "look": {
            name: {"p5": spread.low, "median": spread.median, "p95": spread.high, "worst": spread.worst}
            for name, spread in figures.measures.items()
        },
        "protection": [asdict(effect) | {"beats_noise": effect.beats_noise} for effect in effects],
        "remarks": remarks,
    }

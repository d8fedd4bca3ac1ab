"""Runs a study on workers, unit by unit, and makes its page. What is done already is found and not done again."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rid.assets.studies.page import StudyPage, render_study
from rid.assets.studies.tasks import StudyDone, StudyTask, run_study_task
from rid.resources.dask_workers import Workers
from rid.resources.local_clusters import cores
from rid.resources.storage import Storage
from rid.training.evaluation.study.settings import StudySettings

if TYPE_CHECKING:
    from rid.training.evaluation.cells import Cell
    from rid.training.evaluation.effect.perturbation_analysis import Analysis
    from rid.training.evaluation.judges.identity import IdentitySpace
    from rid.training.evaluation.study.people import Person
    from rid.training.evaluation.study.summary import StudySummary

PAGE, FIGURES = "index.html", "study.json"
BASE_TEACHERS = ("encoder", "advdm")
FULL_TEACHERS = ("encoder", "advdm", "mist", "sds_minus", "sds_plus", "fsmg", "aspl", "simac", "metacloak")
MOST_PAIRS = 512  # photos that a restoration network is trained on
SHOWN = ("column", "full", "learned", "drawn", "seed")  # settings on the page; paths are not
OnUnit = Callable[[int, int, StudyTask, StudyDone], None]


@dataclass(frozen=True)
class StudyRequest:
    """Which study.

    Attributes:
        photos: Parquet file with a column of identities and at least two photos more of each than are learned.
        folder: where units and the page go.
        models: folders by name; the first is what the defender was trained against.
        defenders: folders by name; the first is the one that is judged.
        column: the identity column.
        full: every robustness factor instead of the base cells.
        factors: what a full study varies; everything if empty.
        teachers: methods that the defender is compared with; encoder and advdm, or in a full study all, if empty.
        development: people, in the order of names, that centre the embeddings; the first half if None.
        people: people after those that are studied, at most.
        learned: photos that the attacker has of each.
        drawn: pictures drawn of each.
        seed: of every draw.
        contact_sheet: puts pictures of the people on the page, which then has to stay where it is made.
        command: what the page says made it.
        embedder: ONNX file of the face network; dlib's if empty.
        inception: file of FID's Inception-v3; one in torch's cache, or none, if empty.
        upscaler: folder or hub id of a diffusers upscaling pipeline; the first model enlarges if empty.
        pairs: Parquet file of faces that the attacker who holds the defender trains on; the development ones if empty.
        pair_rows: which of its rows; found out if empty.
    """

    photos: str
    folder: str
    models: dict[str, str] = field(hash=False)
    defenders: dict[str, str] = field(hash=False)
    column: str = "identity"
    full: bool = False
    factors: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    development: int | None = None
    people: int = 8
    learned: int = 8
    drawn: int = 8
    seed: int = 0
    contact_sheet: bool = False
    command: str = ""
    embedder: str = ""
    inception: str = ""
    upscaler: str = ""
    pairs: str = ""
    pair_rows: tuple[int, ...] = ()


def run_study(request: StudyRequest, workers: Workers, on_unit: OnUnit = lambda *_: None) -> StudySummary:
    """Runs what is missing, makes the page, writes the figures beside it, and returns the table.

    Raises:
        ValueError: if the file or the people do not make a study, a network's file cannot be used, or a factor or a
            teacher is unknown.
        RuntimeError: if a worker died.
    """
    from rid.training.evaluation.cells import FACTORS, analysed_cells, base_cells, full_cells
    from rid.training.evaluation.effect.perturbation_analysis import summarise_analysis
    from rid.training.evaluation.judges.fid_inception import find_inception
    from rid.training.evaluation.judges.onnx_embedder import face_embedder
    from rid.training.evaluation.study.people import list_people
    from rid.training.evaluation.study.summary import space_of, summarise
    from rid.training.teachers.options import METHODS

    _check_names("factor", request.factors, FACTORS)
    _check_names("teacher", request.teachers, METHODS)
    request = replace(request, inception=str(find_inception(request.inception) or ""))
    embedder = face_embedder(request.embedder)
    everybody = list_people(Path(request.photos), request.column)
    half = len(everybody) // 2 if request.development is None else request.development
    development, studied = everybody[:half], everybody[half : half + request.people]
    if min(len(development), len(studied)) < 2:
        raise ValueError(f"{request.photos} has {len(everybody)} people: a study needs 2 to centre on and 2 to attack")
    request = replace(request, pair_rows=request.pair_rows or _pair_rows(request, development))
    names, (first, *others) = tuple(request.defenders), tuple(request.models)
    cells = (
        full_cells(names, request.teachers or FULL_TEACHERS, first, tuple(others), request.factors or FACTORS)
        if request.full
        else base_cells(names, request.teachers or BASE_TEACHERS, first)
    )
    tasks = [_task(request, person) for person in (*development, *studied)]
    tasks += [_task(request, person, cell) for person in studied for cell in cells]
    began = datetime.now(UTC)
    done = dict(_run(tasks, workers, on_unit))
    analysed = analysed_cells(names, request.teachers or BASE_TEACHERS, first)
    looks = [replace(_task(request, person), analysed=tuple(analysed)) for person in studied]
    done_looks = dict(_run(looks, workers, on_unit))
    units, photos = _read(_units(request), done, request.learned)
    space = space_of(embedder, *([photos[person.name] for person in people] for people in (development, studied)))
    summary = summarise(cells, units, space)
    found = [_units(request).read_bytes(one.unit) for one in done_looks.values() if one.unit]
    analysis = summarise_analysis(analysed, [json.loads(one) for one in sorted(found)])
    figures: dict[str, Any] = {"development": [person.name for person in development]}
    figures |= _figures(request, began, {**done, **done_looks}, space, summary, analysis)
    target = Storage(request.folder)
    target.write_bytes(FIGURES, json.dumps(figures, indent=1).encode())
    strips = {key: _strip(unit) for key, unit in units.items()} if request.contact_sheet else {}
    target.write_bytes(PAGE, render_study(StudyPage(summary, analysis, figures, strips)))
    return summary


def _check_names(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise ValueError(f"there is no {what} {', '.join(unknown)}: a study has {', '.join(allowed)}")


def _figures(
    request: StudyRequest,
    began: datetime,
    done: Mapping[StudyTask, StudyDone],
    space: IdentitySpace,
    summary: StudySummary,
    analysis: Analysis,
) -> dict[str, Any]:
    """Notes that are written beside the page, and printed on it."""
    return {
        "made": began.strftime("%Y-%m-%d %H:%M UTC"),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 1),
        "units made in this run": sum(one.made for one in done.values()),
        "machine": f"{cores()} cores, {platform.machine()}, {platform.system()}",
        "command": request.command,
        "settings": {name: value for name, value in asdict(request).items() if name in SHOWN},
        "remarks": sorted({one.remark for one in done.values() if one.remark}),
        "embedder": space.embedder.name,
        "strangers": space.strangers,
        "worst case": summary.worst_case and summary.worst_case.cell.key,
        "analysis": asdict(analysis) | {"versions": [asdict(one) | {"key": one.cell.key} for one in analysis.versions]},
        "summary": asdict(summary) | {"cells": [asdict(row) | {"key": row.cell.key} for row in summary.cells]},
    }


def _read(
    storage: Storage, done: Mapping[StudyTask, StudyDone], learned: int
) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, dict[str, Any]]]:
    """Reads the units by cell and person, with the descriptions that belong to them, and each person's own photos'."""
    from rid.training.evaluation.study.descriptions import without

    described = {
        task: {name: value for file in one.descriptions for name, value in json.loads(storage.read_bytes(file)).items()}
        for task, one in done.items()
    }
    photos = {task.person: found for task, found in described.items() if task.cell is None}
    units = {}
    for task, one in done.items():
        if one.unit:
            unit = json.loads(storage.read_bytes(one.unit)) | described[task]
            units[unit["cell"], unit["person"]] = unit | {"references": without(photos[task.person], learned)}
    return units, photos


def _strip(unit: Mapping[str, Any]) -> str:
    """Four photos that the attacker had, then four drawings."""
    from rid.training.evaluation.study.picture_strips import pack, unpack

    return pack([*unpack(unit["photos"])[:4], *unpack(unit["drawn"])[:4]])


def _pair_rows(request: StudyRequest, development: Sequence[Person]) -> tuple[int, ...]:
    """Rows of the development people, or of the file of pairs, evenly thinned to MOST_PAIRS."""
    import pyarrow.parquet as pq

    rows = [row for person in development for row in person.rows]
    if request.pairs:
        rows = list(range(pq.ParquetFile(request.pairs).metadata.num_rows))
    return tuple(rows[:: max(1, -(-len(rows) // MOST_PAIRS))])


def _units(request: StudyRequest) -> Storage:
    return Storage(request.folder).child("units")


def _task(request: StudyRequest, person: Person, cell: Cell | None = None) -> StudyTask:
    settings = StudySettings(
        photos=str(Path(request.photos).absolute()),
        column=request.column,
        models=request.models,
        defenders=request.defenders,
        learned=request.learned,
        drawn=request.drawn,
        seed=request.seed,
        embedder=request.embedder and str(Path(request.embedder).absolute()),
        upscaler=request.upscaler,
        pair_photos=request.pairs and str(Path(request.pairs).absolute()),
        pair_rows=request.pair_rows,
        inception=request.inception and str(Path(request.inception).absolute()),
    )
    return StudyTask(settings, _units(request), person.name, person.rows, cell)


def _run(tasks: list[StudyTask], workers: Workers, on_unit: OnUnit) -> Iterator[tuple[StudyTask, StudyDone]]:
    completed = workers.run(run_study_task, tasks, prefix="study", expected=len(tasks), gpu=True)
    for finished, one in enumerate(completed, start=1):
        if one.result is None:
            raise RuntimeError(f"the worker died while {one.task.person} was studied: run again to go on")
        on_unit(finished, len(tasks), one.task, one.result)
        yield one.task, one.result

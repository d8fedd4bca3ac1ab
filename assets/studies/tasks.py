"""Parts of a study, on workers: one person under one cell, or a person's own photos; networks describe the pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rid.resources.storage import Storage
from rid.training.evaluation.cells import RESTORE, Cell
from rid.training.evaluation.study.settings import StudySettings

if TYPE_CHECKING:
    from rid.training.evaluation.study.people import Person
    from rid.training.evaluation.study.unit import Study


@dataclass(frozen=True)
class StudyTask:
    """One unit.

    Attributes:
        settings: of the study.
        folder: where the files of units are kept.
        person: name.
        rows: of that person's photos.
        cell: what is done; None describes the person's own photos.
        analysed: cells under which the person's photos themselves are analysed instead.
    """

    settings: StudySettings
    folder: Storage
    person: str
    rows: tuple[int, ...]
    cell: Cell | None = None
    analysed: tuple[Cell, ...] = ()

    @property
    def what(self) -> str:
        """Says what is done, in a few words."""
        cell = self.cell
        if cell is None:
            return "analysis" if self.analysed else "photos"
        return " ".join(str(word) for word in (cell.kind, cell.name, cell.budget, cell.transform) if word)


@dataclass(frozen=True)
class StudyDone:
    """A finished unit.

    Attributes:
        unit: name of the unit's file; empty if there is no cell, or the person cannot be studied.
        descriptions: names of the files of what networks say of the pictures.
        made: whether this run made the unit, or described a person's photos.
        remark: why the person cannot be studied.
    """

    unit: str
    descriptions: tuple[str, ...]
    made: bool
    remark: str = ""


def run_study_task(task: StudyTask) -> StudyDone:
    """Runs a unit unless its file is there, and describes its pictures unless that is done."""
    from rid.training.evaluation.study.people import Person
    from rid.training.evaluation.study.picture_strips import unpack
    from rid.training.evaluation.study.unit import TooFewPhotos

    study, person, storage = _study(task.settings), Person(task.person, task.rows), task.folder
    if task.analysed:
        return _analyse(task, study, person, storage)
    cell = task.cell
    try:
        name = study.unit_name(cell, person) if cell else study.person_name(person)
    except TooFewPhotos as error:
        return StudyDone("", (), False, str(error))
    made = cell is not None and not storage.exists(name)
    if cell and made:
        if cell.transform == RESTORE:
            _share_restoration(study, storage)
        storage.write_bytes(name, json.dumps(study.measure(cell, person)).encode())
    descriptions = {describer.name_of(name): describer for describer in study.describers}
    missing = [described for described in descriptions if not storage.exists(described)]
    if missing:
        pictures = unpack(json.loads(storage.read_bytes(name))["drawn"]) if cell else study.squares(person)
        for described in missing:
            content = descriptions[described].describe(list(pictures))
            storage.write_bytes(described, json.dumps(content).encode())
    return StudyDone(name if cell else "", tuple(descriptions), made or (cell is None and bool(missing)))


def _analyse(task: StudyTask, study: Study, person: Person, storage: Storage) -> StudyDone:
    """Analyses a person's photos unless the file is there."""
    from rid.training.evaluation.study.unit import TooFewPhotos

    cells = list(task.analysed)
    try:
        name = study.analysis_name(cells, person)
    except TooFewPhotos as error:
        return StudyDone("", (), False, str(error))
    made = not storage.exists(name)
    if made:
        storage.write_bytes(name, json.dumps(study.analyse(cells, person)).encode())
    return StudyDone(name, (), made)


def _share_restoration(study: Study, storage: Storage) -> None:
    """Trains the restoration network unless a worker has: the first that is stored is everybody's."""
    from rid.training.evaluation.attackers.restoration import pack_restoration, restoration_64, unpack_restoration

    name = f"restoration-{study.restoration_digest}.safetensors"
    if not storage.exists(name):
        storage.create_bytes(name, pack_restoration(study.restoration))
    study.restoration = unpack_restoration(storage.read_bytes(name), restoration_64())


@lru_cache(maxsize=1)
def _study(settings: StudySettings) -> Study:
    """Models and defenders are loaded once a worker process."""
    import torch

    from rid.training.evaluation.study.unit import Study

    torch.set_num_threads(1)
    return Study(settings)

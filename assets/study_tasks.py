"""What workers run for a study: one person under one cell, or the embeddings of one development person."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from resources.storage import Storage

if TYPE_CHECKING:
    from training.evaluation.study import Study


@dataclass(frozen=True)
class StudyTask:
    """One unit.

    Attributes:
        settings_json: of `training.evaluation.study.StudySettings`.
        folder: where the files of units are kept.
        cell_json: of `training.evaluation.study_cells.Cell`; empty embeds a development person.
        person: name.
        rows: of that person's photos.
    """

    settings_json: str
    folder: str
    cell_json: str
    person: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class StudyDone:
    """A finished unit.

    Attributes:
        file: name of its file; empty if the person cannot be studied.
        made: whether this run made it.
        remark: why the person cannot be studied.
    """

    file: str
    made: bool
    remark: str = ""


def run_study_task(task: StudyTask) -> StudyDone:
    """Runs a unit unless its file is there."""
    from training.evaluation.people import Person
    from training.evaluation.study import TooFewPhotos
    from training.evaluation.study_cells import Cell

    study, person, storage = _study(task.settings_json), Person(task.person, task.rows), Storage(task.folder)
    cell = Cell(**json.loads(task.cell_json)) if task.cell_json else None
    try:
        name = study.unit_name(cell, person) if cell else study.person_name(person)
    except TooFewPhotos as error:
        return StudyDone("", False, str(error))
    if storage.exists(name):
        return StudyDone(name, False)
    content = study.measure(cell, person) if cell else study.embed_person(person)
    storage.write_bytes(name, json.dumps(content).encode())
    return StudyDone(name, True)


@lru_cache(maxsize=1)
def _study(settings_json: str) -> Study:
    """Models and defenders are loaded once a worker process."""
    import torch

    from training.evaluation.study import Study, StudySettings

    torch.set_num_threads(1)
    return Study(StudySettings(**json.loads(settings_json)))

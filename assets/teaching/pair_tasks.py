"""Perturbations laid beside a run's squares, on workers: a file for each file of squares that has some."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rid.assets.teaching.array_files import ArrayWriter
from rid.assets.teaching.teacher_cache import TeacherCache
from rid.resources.storage import Storage
from rid.training.photo_set import check_within_budget

PAIRS = "pairs"  # in a run's folder


@dataclass(frozen=True)
class PairsTask:
    """One file to gather.

    Attributes:
        run: the run's folder, which gets `pairs/<name>.npy`.
        cache: of the teacher.
        side: of the squares.
        budget: the teacher's, in 8-bit levels.
        wanted: for each perturbation its unit's address and its place in the unit, in the order of the squares.
    """

    run: Storage
    cache: Storage
    side: int
    budget: int
    wanted: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """Of the file, by what it holds."""
        named = [self.cache.url.rsplit("/", 1)[-1], self.side, self.budget, self.wanted]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


def gather_pairs(task: PairsTask) -> int:
    """Writes the perturbations of a task and returns how many; a unit is in memory at a time.

    Raises:
        ValueError: if one has another side than the squares, or exceeds the budget.
    """
    cache, item = TeacherCache(task.cache), (task.side, task.side, 3)
    read = ("", np.zeros((0, *item), np.int8))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "pairs.npy"
        with ArrayWriter(file, item, np.int8) as writer:
            for address, position in task.wanted:
                if address != read[0]:
                    read = address, cache.read_levels(address)
                check_within_budget(read[1][position], task.budget)
                writer.append(read[1][position])
        task.run.write_file(f"{PAIRS}/{task.name}.npy", file)
    return writer.count

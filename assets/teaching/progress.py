"""Progress of teachers and trainings, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Progress of one stage of a run.

    Attributes:
        stage: what is done, in a word or two.
        done: photos or steps that are finished.
        total: photos or steps in all, as far as it is known.
        unit: what is counted.
        note: numbers beside it, such as losses.
    """

    stage: str
    done: int
    total: int
    unit: str = "photo"
    note: str = ""


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Reports nothing."""

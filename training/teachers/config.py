"""What one teacher is: its method and the numbers of its projected gradient ascent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models.budget import check_budget
from training.config import canonical_digest

METHODS = ("advdm", "sds")
CODE_EPOCH = 1  # raised when the same configuration gives other perturbations


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher.

    Attributes:
        method: one of `METHODS`.
        budget_levels: bound of the perturbation, in 8-bit levels.
        steps: ascent steps.
        step_levels: length of a sign step, in 8-bit levels.
        momentum: share of the running (L1-normalised) gradient kept at each step.
        seed: of the noise; each photo's noise also depends on its own pixels, and on nothing else.
    """

    method: str = "advdm"
    budget_levels: int = 6
    steps: int = 60
    step_levels: float = 1.0
    momentum: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_budget(self.budget_levels)
        if self.method not in METHODS:
            raise ValueError(f"teacher {self.method!r} is unknown: choose one of {', '.join(METHODS)}")
        if self.steps < 1 or self.step_levels <= 0 or not 0 <= self.momentum < 1:
            raise ValueError("a teacher needs steps >= 1, step_levels > 0 and momentum in [0, 1)")

    def to_json(self) -> dict[str, Any]:
        """Returns every field, and the code epoch."""
        return {**asdict(self), "code_epoch": CODE_EPOCH}

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON."""
        return canonical_digest(self.to_json())

"""One teacher: its method and the numbers of its projected gradient ascent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rid.models.budget import check_budget
from rid.training.config import canonical_digest
from rid.training.teachers.options import METHODS, OPTIONS, SET_WISE, Options

PROMPT = " "  # the method's
PERSON_PROMPT = "photo of sks person"  # what a personaliser teaches a model
CODE_EPOCH = 2  # raised when the same configuration gives other perturbations


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher.

    Attributes:
        method: one of `METHODS`.
        budget_levels: bound of the perturbation, in 8-bit levels.
        steps: ascent steps.
        step_levels: length of a sign step, in 8-bit levels.
        momentum: share of the running (L1-normalised) gradient kept at each step; 0 is plain sign ascent.
        batch: photos whose gradients are computed at once; a short batch is filled up, since the last bits of a
            photo's gradient depend on the batch's size, but on nothing else in it.
        prompt: the text the models are conditioned on; None takes `PERSON_PROMPT` for a method that learns a person,
            else `PROMPT`.
        seed: of every draw, at least 0; a photo's draws also depend on its own pixels, and on nothing else.
        options: the method's own.
    """

    method: str = "advdm"
    budget_levels: int = 6
    steps: int = 60
    step_levels: float = 1.0
    momentum: float = 0.5
    batch: int = 8
    prompt: str | None = None
    seed: int = 0
    options: Options = field(default=None)  # type: ignore[assignment]  # None is resolved below

    def __post_init__(self) -> None:
        check_budget(self.budget_levels)
        kind = _options_type(self.method)
        if self.options is None:
            object.__setattr__(self, "options", kind())
        if type(self.options) is not kind:
            raise ValueError(f"teacher {self.method!r} takes {kind.__name__}, not {type(self.options).__name__}")
        if self.steps < 1 or self.batch < 1 or self.step_levels <= 0 or not 0 <= self.momentum < 1 or self.seed < 0:
            raise ValueError("a teacher needs steps, batch >= 1, step_levels > 0, momentum in [0, 1) and seed >= 0")

    @property
    def set_wise(self) -> bool:
        """True if the photos of one person are perturbed together, because a surrogate learns that person."""
        return self.method in SET_WISE

    @property
    def text(self) -> str:
        """The prompt that is used."""
        if self.prompt is not None:
            return self.prompt
        return PERSON_PROMPT if self.set_wise else PROMPT

    def to_json(self) -> dict[str, Any]:
        """Returns everything that decides the perturbations of given photos, and the code epoch."""
        return {**asdict(self), "prompt": self.text, "code_epoch": CODE_EPOCH}

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON."""
        return canonical_digest(self.to_json())

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TeacherConfig:
        """Reads what `to_json` returned, or a part of it: what is not given has its default.

        Raises:
            ValueError: if the method, a field or an option is unknown; the sentence names those that exist.
        """
        given = {key: value for key, value in values.items() if key != "code_epoch"}
        _check_names(given, cls, "a teacher has no field")
        method = given.get("method", cls.method)
        options, kind = given.pop("options", None) or {}, _options_type(method)
        _check_names(options, kind, f"teacher {method!r} has no option")
        return cls(**given, options=kind(**options))


def _options_type(method: str) -> type[Options]:
    if method not in OPTIONS:
        raise ValueError(f"teacher {method!r} is unknown: choose one of {', '.join(METHODS)}")
    return OPTIONS[method]


def _check_names(given: Mapping[str, Any], kind: type, sentence: str) -> None:
    allowed = [one.name for one in fields(kind)]
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise ValueError(f"{sentence} {', '.join(map(repr, unknown))}: allowed are {', '.join(allowed) or 'none'}")

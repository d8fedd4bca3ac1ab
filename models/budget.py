"""The one place where a perturbation budget changes units.

A budget is a whole number of 8-bit levels: at budget 6 no stored value moves by more than 6 of 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

MAX_LEVELS = 16

Levels = TypeVar("Levels")


def levels_to_signed(levels: Levels) -> Levels:
    """Converts 8-bit levels to the [-1, 1] convention of diffusion models; works on numbers, arrays and tensors.

    The RID paper's "12/255" is applied in [-1, 1], so it is 6 levels: `levels_to_signed(6) == 12 / 255`.
    """
    return levels * 2 / 255  # type: ignore[operator,return-value]


def signed_to_levels(signed: Levels) -> Levels:
    """Converts the [-1, 1] convention to 8-bit levels; exact on fractions: `Fraction(12, 255)` is 6 levels."""
    return signed * 255 / 2  # type: ignore[operator,return-value]


def check_budget(levels: int) -> int:
    """Returns `levels` if it is a budget.

    Raises:
        ValueError: if it is not a whole number from 1 to 16.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= MAX_LEVELS:
        raise ValueError(
            f"budget {levels!r} is not allowed: give a whole number of 8-bit levels from 1 to {MAX_LEVELS}"
        )
    return levels


@dataclass(frozen=True)
class BudgetRange:
    """The budgets a defender was trained for, in 8-bit levels; a fixed one has `min == max`."""

    min: int
    max: int
    default: int

    def __post_init__(self) -> None:
        if not check_budget(self.min) <= check_budget(self.default) <= check_budget(self.max):
            raise ValueError(f"budgets must satisfy {self.min} (min) <= {self.default} (default) <= {self.max} (max)")

    def __str__(self) -> str:
        if self.min == self.max:
            return f"a fixed budget of {self.min} of 255 levels"
        return f"budgets of {self.min} to {self.max} of 255 levels"

    def check(self, levels: float) -> None:
        """Accepts what the defender was trained for.

        Raises:
            ValueError: if `levels` is outside of the range, or not a number.
        """
        if not self.min <= levels <= self.max:
            raise ValueError(
                f"this defender was trained for {self}, not {levels:g}: choose a budget it was trained for, "
                "or another defender"
            )

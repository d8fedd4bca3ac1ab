"""The one place where a perturbation budget changes units.

A budget is a whole number of 8-bit levels: at budget 6 no stored value moves by more than 6 of 255.
"""

from __future__ import annotations

from typing import TypeVar

MAX_LEVELS = 16

Levels = TypeVar("Levels")


def levels_to_signed(levels: Levels) -> Levels:
    """Converts 8-bit levels to the [-1, 1] convention of diffusion models; works on numbers, arrays and tensors.

    The RID paper's "12/255" is applied in [-1, 1], so it is 6 levels: `levels_to_signed(6) == 12 / 255`.
    """
    return levels * 2 / 255  # type: ignore[operator,return-value]


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

"""Blind subtraction: the attacker averages other people's protected photos and subtracts what they have in common.

It needs no defender and no training. An attacker takes the average of other clean photos off, and keeps what a
high-pass leaves of the rest. Here the average of the very same photos, clean, is taken off, and no high-pass is needed:
it is what more and more photos approach, and what is left is a lower bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def subtract(protected: NDArray[np.uint8], mean_of_others: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Returns the (S, S, 3) photo without the (S, S, 3) mean change, in levels, of other people's photos."""
    cleaned: NDArray[np.uint8] = np.clip(np.rint(protected - mean_of_others), 0, 255).astype(np.uint8)
    return cleaned

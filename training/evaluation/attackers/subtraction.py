"""Blind subtraction: the attacker averages other people's protected photos and subtracts what they have in common.

It needs no defender, no pairs and no training. The average of clean photos that is taken off first is that of the same
photos here, which no attacker has: what is left is a lower bound.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

HIGH_PASS_SIDE, HIGH_PASS_SIGMA = 64, 4.0  # what is smoother at this side is taken for faces and light, not a pattern


def common_pattern(mean_perturbation: NDArray[np.floating]) -> NDArray[np.float32]:
    """Returns the (S, S, 3) pattern in levels that others' photos share: their mean change, high-pass filtered."""
    mean = mean_perturbation.astype(np.float32)
    small = cv2.resize(mean, (HIGH_PASS_SIDE, HIGH_PASS_SIDE), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), HIGH_PASS_SIGMA)
    pattern: NDArray[np.float32] = mean - cv2.resize(smooth, mean.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return pattern


def subtract(protected: NDArray[np.uint8], pattern: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Returns the (S, S, 3) photo without the pattern."""
    cleaned: NDArray[np.uint8] = np.clip(np.rint(protected - pattern), 0, 255).astype(np.uint8)
    return cleaned

"""Regression to perturbations that a teacher precomputed (paper, eq. 10).

L_reg = || delta_phi(x) - delta_teacher(x) ||^2
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def regression_loss(perturbation: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two (B, 3, S, S) perturbations in the [-1, 1] convention."""
    return F.mse_loss(perturbation, teacher)

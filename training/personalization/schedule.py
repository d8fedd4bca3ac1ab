"""The learning rate of a personalisation. Its fall to zero is what makes a short attack draw sharp faces."""

from __future__ import annotations

WARM_UP_STEPS = 10


def learning_rate_factor(step: int, steps: int) -> float:
    """Returns the factor of step 0..steps-1: a short linear warm-up, then a linear fall that ends at zero."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - step / steps)

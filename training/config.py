"""What one training run of a defender is: a complete, frozen description.

Its digest, with those of the photos, the teacher perturbations and the models, names the run; the same run is never
trained twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.budget import check_budget


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
        recipe: the name of the function in `training.recipes` that made this.
        size: a key of `models.defender.SIZES`.
        budget_min: smallest budget sampled, in 8-bit levels.
        budget_max: largest budget sampled; equal to `budget_min` for a defender of one fixed budget.
        budget_default: the budget used when a user names none.
        steps: optimiser steps.
        batch: photos a step for Adv-SDS.
        pair_batch: photos with a teacher perturbation a step, for the regression.
        adv_sds_weight: factor of the Adv-SDS loss; 0 leaves the term out.
        regression_weight: lambda of eq. 10; 0 leaves the term out.
        learning_rate: of AdamW after warm-up; it falls linearly to zero at the last step.
        weight_decay: of AdamW.
        warm_up_steps: steps over which the learning rate rises linearly.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the moving average of the weights, which is what is saved.
        precision: "auto" is bfloat16 autocast where the hardware multiplies bfloat16, else float32.
        checkpoint_every: steps between checkpoints.
        seed: of the initialisation and of every draw.
    """

    recipe: str
    size: str
    budget_min: int
    budget_max: int
    budget_default: int
    steps: int
    batch: int
    pair_batch: int
    adv_sds_weight: float = 1.0
    regression_weight: float = 1.0
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    warm_up_steps: int = 500
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not check_budget(self.budget_min) <= check_budget(self.budget_default) <= check_budget(self.budget_max):
            raise ValueError("budgets must satisfy budget_min <= budget_default <= budget_max")
        if self.adv_sds_weight == 0 and self.regression_weight == 0:
            raise ValueError("adv_sds_weight and regression_weight are both 0: there is nothing to train on")
        if self.steps < 1 or self.batch < 1 or self.pair_batch < 1:
            raise ValueError("steps, batch and pair_batch must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Returns every field, as recorded beside the weights."""
        return asdict(self)

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON of every field."""
        return canonical_digest(self.to_json())


def canonical_digest(value: Any) -> str:
    """Returns the sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

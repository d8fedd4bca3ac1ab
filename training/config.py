"""One training run of a defender: a complete, frozen description.

Its digest, with those of the photos, the teacher perturbations and the models, names the run; the same run is never
trained twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from rid.models.budget import check_budget
from rid.models.networks import SIZES

Posterior = Literal["sample", "mean"]
Precision = Literal["auto", "float32", "bfloat16"]
POSTERIORS, PRECISIONS = get_args(Posterior), get_args(Precision)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
        recipe: the name of the function in `rid.training.recipes` that made this.
        size: a key of `rid.models.networks.SIZES`.
        budget_min: smallest budget sampled, in 8-bit levels.
        budget_max: largest budget sampled; equal to `budget_min` for a defender of one fixed budget.
        budget_default: the budget used when a user names none.
        steps: optimiser steps.
        batch: photos a step for Adv-SDS, over all processes.
        pair_batch: photos with a teacher perturbation a step, for the regression, over all processes.
        micro_batch: photos and pairs that a process holds at once; it adds gradients up. None is all of them.
        adv_sds_weight: factor of the Adv-SDS loss; 0 leaves the term out.
        regression_weight: lambda of eq. 10; 0 leaves the term out.
        displacement_weight: factor of the latent displacement; 0 leaves the term out.
        space_weight: factor of the displacement in latent spaces; 0 leaves the term out.
        spaces_a_step: latent spaces a step, drawn from those that are given.
        picture_weight: factor of the change of the decoded picture D(E(x')), in one space a step; 0 leaves it out.
        shared_weight: factor of the penalty on what the perturbations of a step share.
        effort_weight: factor of the penalty on the values before the last tanh.
        shared_windows: cut all photos of a step at one place and scale; the windows are then resized to the working
            resolution. Photos are aligned faces: what such a step shares is what an attacker can average.
        window_min: smallest side of such a window, in pixels of the photos.
        view_side: side of the attacker's view, which is cut from the protected square and resized.
        view_plain_share: share of steps whose view is cut without resizing.
        view_enlarged: largest factor by which a view is enlarged.
        blurred_share: share of the photos that are blurred in the view, by a standard deviation of up to a pixel.
        posterior: whether z is a sample of the autoencoder's posterior or its mean.
        transformed_share: share of the photos that are shrunk and JPEG-coded, differentiably, before the encoder.
        resize_min: smallest factor of that shrinking; the factor is uniform up to 1.
        jpeg_quality_min: lowest quality of that coding.
        jpeg_quality_max: highest quality of that coding.
        learning_rate: of AdamW after warm-up; it falls linearly to zero at the last step.
        weight_decay: of AdamW.
        warm_up_steps: steps over which the learning rate rises linearly.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the moving average of the weights, which is what is saved.
        precision: "auto" is bfloat16 autocast where the hardware multiplies bfloat16, else float32.
        vae_checkpointing: computes the encoder's activations twice instead of keeping them.
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
    micro_batch: int | None = None
    adv_sds_weight: float = 1.0
    regression_weight: float = 1.0
    displacement_weight: float = 0.0
    space_weight: float = 0.0
    spaces_a_step: int = 2
    picture_weight: float = 0.0
    shared_weight: float = 0.0
    effort_weight: float = 0.0
    shared_windows: bool = False
    window_min: int = 64
    view_side: int = 64
    view_plain_share: float = 0.4
    view_enlarged: float = 3.0
    blurred_share: float = 0.0
    posterior: Posterior = "sample"
    transformed_share: float = 0.0
    resize_min: float = 0.5
    jpeg_quality_min: int = 60
    jpeg_quality_max: int = 95
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    warm_up_steps: int = 500
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    precision: Precision = "auto"
    vae_checkpointing: bool = False
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not check_budget(self.budget_min) <= check_budget(self.budget_default) <= check_budget(self.budget_max):
            raise ValueError("budgets must satisfy budget_min <= budget_default <= budget_max")
        if self.adv_sds_weight == self.regression_weight == self.displacement_weight == self.space_weight == 0:
            raise ValueError(
                "adv_sds_weight, regression_weight, displacement_weight and space_weight are all 0: "
                "there is nothing to train on"
            )
        counts = ("steps", "batch", "pair_batch", "checkpoint_every")
        if min(getattr(self, name) for name in counts) < 1 or (self.micro_batch is not None and self.micro_batch < 1):
            raise ValueError(f"{', '.join(counts)} and micro_batch must be at least 1")
        if self.seed < 0 or self.learning_rate <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError("seed must be at least 0, learning_rate above 0, and ema_decay from 0 to below 1")
        if self.size not in SIZES:
            raise ValueError(f"size {self.size!r} is unknown: choose one of {', '.join(sorted(SIZES))}")
        for name, allowed in (("posterior", POSTERIORS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(allowed)}")
        if not (0 <= self.transformed_share <= 1 and 0 < self.resize_min <= 1):
            raise ValueError("transformed_share must lie in 0..1 and resize_min in (0, 1]")
        if self.space_weight:
            self._check_view()
        if not 1 <= self.jpeg_quality_min <= self.jpeg_quality_max <= 100:
            raise ValueError("JPEG qualities must satisfy 1 <= jpeg_quality_min <= jpeg_quality_max <= 100")

    def _check_view(self) -> None:
        side = SIZES[self.size].working_resolution
        if not (8 <= self.view_side <= side and self.view_enlarged >= 1 and self.spaces_a_step >= 1):
            raise ValueError(
                f"view_side must lie in 8..{side} (the working resolution), view_enlarged be at least 1, and "
                "spaces_a_step at least 1"
            )
        if not (0 <= self.view_plain_share <= 1 and 0 <= self.blurred_share <= 1 and self.window_min >= 8):
            raise ValueError("view_plain_share and blurred_share must lie in 0..1, and window_min be at least 8")

    @property
    def uses_models(self) -> bool:
        """True if a term of the loss sees photos through frozen diffusion models."""
        return bool(self.adv_sds_weight or self.displacement_weight)

    @property
    def uses_photos(self) -> bool:
        """True if a term of the loss needs photos without a teacher perturbation."""
        return bool(self.uses_models or self.space_weight)

    def to_json(self) -> dict[str, Any]:
        """Returns every field, as recorded beside the weights."""
        return asdict(self)

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON of every field."""
        return canonical_digest(self.to_json())


def canonical_digest(value: Any) -> str:
    """Returns the sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

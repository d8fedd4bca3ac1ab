"""The options of each teacher beyond the numbers that all share. Nothing here needs torch.

The defaults are for Stable Diffusion at 512 px. Small models move little at a learning rate of 5e-6: give them 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = ("none", "grey", "texture")


@dataclass(frozen=True)
class NoOptions:
    """Of a teacher that has none."""


@dataclass(frozen=True)
class EncoderOptions:
    """PhotoGuard's encoder attack.

    Attributes:
        target: the picture whose latents are approached; "none" moves away from the photo's own.
    """

    target: str = "grey"

    def __post_init__(self) -> None:
        _check(self.target in TARGETS, f"target {self.target!r} is unknown: choose one of {', '.join(TARGETS)}")


@dataclass(frozen=True)
class MistOptions:
    """Mist.

    Attributes:
        target: as in `EncoderOptions`.
        semantic_weight: factor of the diffusion loss beside the latents' mean squared distance.
    """

    target: str = "texture"
    semantic_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.target in TARGETS, f"target {self.target!r} is unknown: choose one of {', '.join(TARGETS)}")
        _check(self.semantic_weight >= 0, "semantic_weight must be at least 0")


@dataclass(frozen=True)
class SurrogateOptions:
    """The fine-tuning of a surrogate, a copy of a frozen U-Net.

    Attributes:
        training_steps: optimiser steps each time it is fine-tuned.
        training_batch: photos a step, at most as many as the set has.
        learning_rate: of AdamW.
    """

    training_steps: int = 3
    training_batch: int = 2
    learning_rate: float = 5e-6

    def __post_init__(self) -> None:
        _check(
            self.training_steps >= 1 and self.training_batch >= 1 and self.learning_rate > 0,
            "training_steps and training_batch must be at least 1, and learning_rate above 0",
        )


@dataclass(frozen=True)
class FsmgOptions(SurrogateOptions):
    """FSMG: one long fine-tuning on the clean set."""

    training_steps: int = 200


@dataclass(frozen=True)
class AsplOptions(SurrogateOptions):
    """ASPL.

    Attributes:
        ascent_steps: steps of the perturbation between two fine-tunings.
    """

    ascent_steps: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.ascent_steps >= 1, "ascent_steps must be at least 1")


@dataclass(frozen=True)
class SimacOptions(AsplOptions):
    """SimAC.

    Attributes:
        candidates: time steps whose gradients are compared in one round of the search.
        radius: time steps dropped on either side of the least informative candidate.
        remaining: the search ends when a photo has at most this many time steps left.
        feature_weight: factor of the feature term.
    """

    candidates: int = 5
    radius: int = 20
    remaining: int = 100
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(
            self.candidates >= 2 and self.radius >= 0 and self.remaining >= self.candidates,
            "candidates must be at least 2, radius at least 0, and remaining at least candidates",
        )
        _check(self.feature_weight >= 0, "feature_weight must be at least 0")


@dataclass(frozen=True)
class MetaCloakOptions(SurrogateOptions):
    """MetaCloak.

    Attributes:
        ascent_steps: steps of the perturbation after each fine-tuning.
        pool: surrogates; the j-th has been fine-tuned on the clean set for j times `stagger` steps.
        stagger: steps between two members of the pool.
        unroll: fine-tunings of a member on the protected set before the next member takes over.
        rotation: largest angle, in degrees.
        crop: smallest share of the side that a crop keeps.
        blur: largest standard deviation of the Gaussian blur, in pixels.
        jpeg_quality: lowest JPEG quality.
    """

    training_steps: int = 1
    ascent_steps: int = 1
    pool: int = 3
    stagger: int = 100
    unroll: int = 3
    rotation: float = 10.0
    crop: float = 0.8
    blur: float = 1.0
    jpeg_quality: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(
            min(self.ascent_steps, self.pool, self.stagger, self.unroll) >= 1,
            "ascent_steps, pool, stagger and unroll must be at least 1",
        )
        _check(
            0 <= self.rotation <= 45 and 0 < self.crop <= 1 and self.blur >= 0 and 1 <= self.jpeg_quality <= 100,
            "rotation must be 0-45 degrees, crop in (0, 1], blur at least 0 pixels and jpeg_quality 1-100",
        )


Options = NoOptions | EncoderOptions | MistOptions | SurrogateOptions

OPTIONS: dict[str, type[Options]] = {
    "advdm": NoOptions,
    "fsmg": FsmgOptions,
    "aspl": AsplOptions,
    "encoder": EncoderOptions,
    "mist": MistOptions,
    "sds_minus": NoOptions,
    "sds_plus": NoOptions,
    "simac": SimacOptions,
    "metacloak": MetaCloakOptions,
}
METHODS = tuple(OPTIONS)
SET_WISE = tuple(name for name, kind in OPTIONS.items() if issubclass(kind, SurrogateOptions))


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)

"""MetaCloak: a pool of surrogates at different stages, unrolled, under transformations of the protected photos.

Liu et al., "MetaCloak: Preventing Unauthorized Subject-driven Text-to-image Diffusion-based Synthesis via
Meta-learning" (CVPR 2024, arXiv 2311.13127). The perturbation is to work on whatever trajectory an attacker's
fine-tuning takes and after whatever happens to the photo on the way:
delta = argmax E_j E_g || eps_theta_j(g(x + delta)) - n ||^2.

The members j of the pool are stages of one fine-tuning on the clean set. A member starts from its stage; then K
fine-tuning steps on the transformed protected set take turns with M ascent steps, `unroll` times (first order: no
gradient passes through the fine-tuning); then the next member takes over. One transformation is drawn a photo and step.
The differences are those of FSMG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.noise import StepNoise
from rid.training.teachers.advdm import AdvDM
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.options import MetaCloakOptions
from rid.training.teachers.pgd import Ascent
from rid.training.teachers.photos import Photos
from rid.training.teachers.surrogate import Lesson, Surrogate, Weights, packed_weights, unpacked_weights
from rid.training.teachers.transforms import random_transform


class MetaCloak(AdvDM):
    """Ascends the diffusion loss of transformed photos against the members of the pool in turn.

    Attributes:
        pool: the weights of each model's members, a model's members together.
    """

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        super().__init__(models, config)
        self.options = cast(MetaCloakOptions, config.options)
        self.round_steps = self.options.ascent_steps * self.options.unroll
        self.surrogates = [Surrogate(model, self.options, config.seed) for model in models]
        self.models = [surrogate.model for surrogate in self.surrogates]
        self.pool: list[Weights] = []

    def begin(self, photos: Photos) -> None:
        """Fine-tunes on the clean set and keeps a stage every `stagger` steps, the first before any."""
        stagger = self.options.stagger
        for surrogate in self.surrogates:
            self.pool.append(surrogate.weights())
            for stage in range(1, self.options.pool):
                surrogate.fine_tune(photos, photos.image(), Lesson("clean", (stage - 1) * stagger, stagger))
                self.pool.append(surrogate.weights())

    def before_step(self, ascent: Ascent) -> None:
        """Fine-tunes the member whose turn it is, which starts from its stage when it takes over."""
        turn, steps = divmod(ascent.step, self.options.ascent_steps)
        if steps:
            return
        member = turn // self.options.unroll % self.options.pool
        count, rows = self.options.training_steps, range(len(ascent.photos))
        noise = ascent.photos.noise(self.config.seed, "seen by the attacker", turn, rows)
        seen = self.transform(ascent.image, noise)  # (N, 3, S, S)
        for index, surrogate in enumerate(self.surrogates):
            if turn % self.options.unroll == 0:
                surrogate.load(self.pool[index * self.options.pool + member])
            surrogate.fine_tune(ascent.photos, seen, Lesson("protected", turn * count, count))

    def transform(self, image: Tensor, noise: StepNoise) -> Tensor:
        """Draws and applies one transformation a photo."""
        return random_transform(image, self.options, noise)

    def state(self) -> dict[str, Tensor]:
        """Returns the pool."""
        return packed_weights(self.pool)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes the pool back."""
        self.pool = unpacked_weights(state, len(self.surrogates) * self.options.pool)

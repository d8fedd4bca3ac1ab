"""ASPL: surrogate and perturbation learn in turns.

Van Le et al., "Anti-DreamBooth" (ICCV 2023, arXiv 2303.15433), section 4.2. One round: a clone of the surrogate is
fine-tuned for K steps on the clean set and ascended against for M steps; then the surrogate itself is fine-tuned for K
steps on the set as it is protected by now. The differences are those of FSMG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.advdm import AdvDM
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.options import AsplOptions
from rid.training.teachers.pgd import Ascent
from rid.training.teachers.surrogate import Lesson, Surrogate, Weights, packed_weights, unpacked_weights


class Aspl(AdvDM):
    """Ascends the diffusion loss of clones.

    Attributes:
        kept: each surrogate's weights; its U-Net holds the clone while the perturbation ascends.
    """

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        super().__init__(models, config)
        self.turns = cast(AsplOptions, config.options)
        self.round_steps = self.turns.ascent_steps
        self.surrogates = [Surrogate(model, self.turns, config.seed) for model in models]
        self.models = [surrogate.model for surrogate in self.surrogates]
        self.kept: list[Weights] = [surrogate.weights() for surrogate in self.surrogates]

    def before_step(self, ascent: Ascent) -> None:
        """Starts a round after every M steps."""
        turn, steps = divmod(ascent.step, self.round_steps)
        if steps:
            return
        for index, surrogate in enumerate(self.surrogates):
            if turn:
                surrogate.load(self.kept[index])
                self._teach(surrogate, ascent, "protected", turn - 1)
                self.kept[index] = surrogate.weights()
            self._teach(surrogate, ascent, "clean", turn)

    def _teach(self, surrogate: Surrogate, ascent: Ascent, purpose: str, turn: int) -> None:
        image = ascent.image if purpose == "protected" else ascent.photos.image()  # (N, 3, S, S)
        count = self.turns.training_steps
        surrogate.fine_tune(ascent.photos, image, Lesson(purpose, turn * count, count))

    def state(self) -> dict[str, Tensor]:
        """Returns the surrogates' weights."""
        return packed_weights(self.kept)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes the surrogates' weights back."""
        self.kept = unpacked_weights(state, len(self.surrogates))

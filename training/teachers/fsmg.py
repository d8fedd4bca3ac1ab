"""FSMG: AdvDM against a surrogate that was fine-tuned once, on the clean photos of the person.

Van Le et al., "Anti-DreamBooth: Protecting users from personalized text-to-image synthesis" (ICCV 2023, arXiv
2303.15433), section 4.2: delta = argmax || eps_theta_clean(z_t, t, c) - n ||^2 with theta_clean fine-tuned on the clean
set. Differences: the set is fine-tuned on itself rather than on other photos of the person, the text encoder stays
frozen, and there is no prior preservation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.teachers.advdm import AdvDM
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.options import SurrogateOptions
from rid.training.teachers.photos import Photos
from rid.training.teachers.surrogate import Lesson, Surrogate, packed_weights, unpacked_weights


class Fsmg(AdvDM):
    """Ascends the surrogates' diffusion loss."""

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        super().__init__(models, config)
        self.options = cast(SurrogateOptions, config.options)
        self.surrogates = [Surrogate(model, self.options, config.seed) for model in models]
        self.models = [surrogate.model for surrogate in self.surrogates]

    def begin(self, photos: Photos) -> None:
        """Fine-tunes each surrogate on the clean set."""
        for surrogate in self.surrogates:
            surrogate.fine_tune(photos, photos.image(), Lesson("clean", 0, self.options.training_steps))

    def state(self) -> dict[str, Tensor]:
        """Returns the surrogates' weights."""
        return packed_weights([surrogate.weights() for surrogate in self.surrogates])

    def restore(self, state: dict[str, Tensor]) -> None:
        """Loads the surrogates' weights."""
        for surrogate, weights in zip(self.surrogates, unpacked_weights(state, len(self.surrogates)), strict=True):
            surrogate.load(weights)

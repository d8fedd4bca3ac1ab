"""The teachers by name, and the one call that uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.frozen_diffusion import FrozenDiffusion
from training.teachers.advdm import AdvDM
from training.teachers.aspl import Aspl
from training.teachers.checkpoint import CheckpointStore
from training.teachers.config import TeacherConfig
from training.teachers.encoder_attack import EncoderAttack
from training.teachers.fsmg import Fsmg
from training.teachers.metacloak import MetaCloak
from training.teachers.mist import Mist
from training.teachers.pgd import Progress, Teacher, run_teacher
from training.teachers.sds import SdsMinus, SdsPlus
from training.teachers.simac import Simac

TEACHERS: dict[str, type[Teacher]] = {
    "advdm": AdvDM,
    "fsmg": Fsmg,
    "aspl": Aspl,
    "encoder": EncoderAttack,
    "mist": Mist,
    "sds_minus": SdsMinus,
    "sds_plus": SdsPlus,
    "simac": Simac,
    "metacloak": MetaCloak,
}


def precompute_perturbations(
    pixels: NDArray[np.uint8],
    models: Sequence[FrozenDiffusion],
    config: TeacherConfig,
    *,
    checkpoint: CheckpointStore | None = None,
    checkpoint_seconds: float = 30.0,
    on_step: Callable[[Progress], None] | None = None,
) -> NDArray[np.int8]:
    """Perturbs photos by a configured method; see `run_teacher`.

    Args:
        pixels: (N, S, S, 3) uint8 photos; for a set-wise method those of one person.
        models: one or more frozen models, conditioned on `config.text`.
        config: the teacher.
        checkpoint: where a killed run left off.
        checkpoint_seconds: between two checkpoints.
        on_step: called after each step.
    """
    teacher = TEACHERS[config.method](models, config)
    return run_teacher(pixels, teacher, checkpoint=checkpoint, checkpoint_seconds=checkpoint_seconds, on_step=on_step)

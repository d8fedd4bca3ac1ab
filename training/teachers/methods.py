"""The teachers by name, and the calls that use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.devices import allowing_tf32, device_numerics
from rid.training.teachers.advdm import AdvDM
from rid.training.teachers.aspl import Aspl
from rid.training.teachers.checkpoint import CheckpointStore
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.encoder_attack import EncoderAttack
from rid.training.teachers.fsmg import Fsmg
from rid.training.teachers.metacloak import MetaCloak
from rid.training.teachers.mist import Mist
from rid.training.teachers.pgd import Progress, Teacher, run_teacher
from rid.training.teachers.sds import SdsMinus, SdsPlus
from rid.training.teachers.simac import Simac
from rid.training.teachers.units import Unit

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
    with allowing_tf32(device_numerics("auto", models[0].device)):
        return run_teacher(
            pixels, teacher, checkpoint=checkpoint, checkpoint_seconds=checkpoint_seconds, on_step=on_step
        )


def perturb_units(
    units: Sequence[Unit],
    photo: Callable[[str], NDArray[np.uint8]],
    models: Sequence[FrozenDiffusion],
    config: TeacherConfig,
    *,
    checkpoint: CheckpointStore | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> dict[str, NDArray[np.int8]]:
    """Perturbs units in one run and returns (N, S, S, 3) int8 levels of each, in the order of its photos, by address.

    Args:
        units: photos of their own, or one set for a set-wise method.
        photo: returns the (S, S, 3) uint8 photo of a digest.
        models: frozen models, conditioned on `config.text`.
        config: the teacher.
        checkpoint: of a run over the same units; see `run_name`.
        on_step: called after each step.

    Raises:
        ValueError: if several sets are given to a set-wise method, which would take them for one person.
    """
    if config.set_wise and len(units) != 1:
        raise ValueError(f"teacher {config.method!r} perturbs one set at a time, not {len(units)}")
    pixels = np.stack([photo(digest) for unit in units for digest in unit.photos])
    made = precompute_perturbations(pixels, models, config, checkpoint=checkpoint, on_step=on_step)
    ends = np.cumsum([len(unit.photos) for unit in units])
    return {unit.address: made[end - len(unit.photos) : end] for unit, end in zip(units, ends, strict=True)}

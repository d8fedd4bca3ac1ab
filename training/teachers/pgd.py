"""Projected sign-gradient ascent within a budget: the core that every teacher shares.

Projected gradient ascent is Madry et al. (ICLR 2018), its momentum over L1-normalised gradients Dong et al. (CVPR
2018). A method says what is ascended and what happens between steps; batching, ensembles, projection, checkpoints
and exact rounding are here.

N photos, B of them in a batch, S side, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.devices import teacher_autocast
from rid.training.noise import StepNoise
from rid.training.teachers.checkpoint import CheckpointPace, CheckpointStore, pack, unpack
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.photos import Photos

# Without it the gradients of a float16 U-Net, a mean over tens of thousands of elements, fall below its range.
GRADIENT_SCALE = 2.0**12


class TeacherDiverged(RuntimeError):
    """A gradient is not a finite number."""


@dataclass(frozen=True)
class Sample:
    """The sample that an objective is evaluated on.

    Attributes:
        index: of the model.
        model: the denoiser, frozen or a surrogate.
        rows: B places of the photos.
        latents: (B, C, h, w) scaled latents of the perturbed photos.
        timesteps: (B,) integers.
        noise: (B, C, h, w) standard normal.
    """

    index: int
    model: FrozenDiffusion
    rows: Sequence[int]
    latents: Tensor
    timesteps: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Progress:
    """One finished step of `steps`; `objective` is its mean over models and photos, before the step."""

    step: int
    steps: int
    objective: float


class Ascent:
    """Perturbations under way.

    Attributes:
        photos: what is perturbed.
        delta: (N, 3, S, S) in 8-bit levels, within the budget and within 0..255 when added.
        running: (N, 3, S, S) gradient with momentum.
        step: number of finished steps.
    """

    def __init__(self, photos: Photos, config: TeacherConfig, random_start: bool) -> None:
        self.photos, self.config = photos, config
        self.delta = torch.zeros_like(photos.levels)
        self.running = torch.zeros_like(photos.levels)
        self.step = 0
        if random_start:
            uniform = (
                photos.noise(config.seed, "start", 0, range(len(photos)))
                .normal(photos.levels.shape[1:])
                .div(2**0.5)
                .erf()
            )
            self.delta = self._projected(config.budget_levels * uniform.to(photos.device))

    @property
    def image(self) -> Tensor:
        """(N, 3, S, S) perturbed photos in [-1, 1]."""
        return self.photos.image(self.delta)

    def climb(self, gradient: Tensor) -> None:
        """Takes one step along (N, 3, S, S) gradients, each photo's scaled by itself."""
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)  # (N, 1, 1, 1)
        self.running = self.config.momentum * self.running + gradient / scale
        self.delta = self._projected(self.delta + self.config.step_levels * self.running.sign())
        self.step += 1

    def rounded(self) -> NDArray[np.int8]:
        """Returns (N, S, S, 3) whole levels; rounding leaves neither the budget nor 0..255, which are whole too."""
        return self.delta.round().permute(0, 2, 3, 1).cpu().numpy().astype(np.int8)

    def _projected(self, delta: Tensor) -> Tensor:
        bounded = delta.clamp(-self.config.budget_levels, self.config.budget_levels)
        return (self.photos.levels + bounded).clamp(0, 255) - self.photos.levels


class Hooks:
    """Hooks of a method beside its objective; by default they do nothing."""

    def prepare(self, photos: Photos) -> None:
        """Computes what follows from photos and models alone; called at every start."""

    def begin(self, photos: Photos) -> None:
        """Trains or searches before the first step; its outcome is in `state`, and it is not called on a resume."""

    def before_step(self, ascent: Ascent) -> None:
        """Acts between steps."""

    def state(self) -> dict[str, Tensor]:
        """Returns what `begin` and the rounds so far left behind."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` returned."""


class Teacher(Hooks, ABC):
    """One method. What is not overridden is plain ascent against frozen models.

    Attributes:
        frozen: the models as given; they encode.
        models: the denoisers; surrogates where a method trains some.
        round_steps: a checkpoint is taken only after a whole number of so many steps.
        random_start: whether the ascent starts at random perturbations, because zero is a saddle point.
        posterior_mean: whether latents are the posterior's mean instead of a sample.
    """

    round_steps = 1
    random_start = False
    posterior_mean = False

    def __init__(self, models: Sequence[FrozenDiffusion], config: TeacherConfig) -> None:
        self.frozen, self.models, self.config = list(models), list(models), config

    @abstractmethod
    def objective(self, sample: Sample) -> Tensor:
        """Returns the (B,) values to be maximised."""

    def transform(self, image: Tensor, noise: StepNoise) -> Tensor:
        """Transforms (B, 3, S, S) perturbed photos before they are encoded."""
        return image

    def timesteps(self, index: int, rows: Sequence[int], noise: StepNoise) -> Tensor:
        """Draws (B,) time steps for a model."""
        return noise.integers(0, len(self.models[index].schedule.abar))


def run_teacher(
    pixels: NDArray[np.uint8],
    teacher: Teacher,
    *,
    checkpoint: CheckpointStore | None = None,
    checkpoint_seconds: float = 30.0,
    on_step: Callable[[Progress], None] | None = None,
) -> NDArray[np.int8]:
    """Perturbs photos with one method.

    Args:
        pixels: (N, S, S, 3) uint8 photos; for a set-wise method those of one person.
        teacher: the method, its models and its configuration.
        checkpoint: where a killed run of these photos with this teacher left off; None keeps nothing.
        checkpoint_seconds: between two checkpoints, longer where writing one takes long.
        on_step: called after each step.

    Returns:
        (N, S, S, 3) int8 perturbations in 8-bit levels. After adding them to `pixels` no value leaves 0..255, and
        none moves by more than the budget.

    Raises:
        ValueError: if the photos are no (N, S, S, 3) uint8.
        TeacherDiverged: if a gradient is not a finite number.
    """
    config = teacher.config
    photos = Photos(pixels, teacher.frozen[0].device)
    ascent = Ascent(photos, config, teacher.random_start)
    teacher.prepare(photos)
    saved = checkpoint.read() if checkpoint else None
    if saved is not None:
        _resume(saved, ascent, teacher)
    else:
        teacher.begin(photos)
    pace = CheckpointPace(checkpoint, checkpoint_seconds)
    while ascent.step < config.steps:
        teacher.before_step(ascent)
        gradient, objective = ensemble_gradient(teacher, ascent)
        ascent.climb(gradient)
        if ascent.step % teacher.round_steps == 0 and ascent.step < config.steps:
            pace.offer(lambda: _packed(ascent, teacher))
        if on_step:
            on_step(Progress(ascent.step, config.steps, objective))
    return ascent.rounded()


def ensemble_gradient(teacher: Teacher, ascent: Ascent) -> tuple[Tensor, float]:
    """Returns the (N, 3, S, S) gradients of the models' mean objective, times a constant, and that mean.

    Raises:
        TeacherDiverged: if a gradient is not a finite number.
    """
    photos, config = ascent.photos, teacher.config
    parts: list[Tensor] = []
    objective = 0.0
    for rows in photos.batches(config.batch):
        new = min(len(rows), len(photos) - config.batch * len(parts))
        noise = photos.noise(config.seed, "ascent", ascent.step, rows)
        delta = ascent.delta[rows].requires_grad_(True)  # (B, 3, S, S)
        values = _backward_through_models(teacher, teacher.transform(photos.image(delta, rows), noise), rows, noise)
        if delta.grad is None or not bool(torch.isfinite(delta.grad).all()):
            raise TeacherDiverged(
                f"the gradient of teacher {config.method!r} stopped being finite at step {ascent.step}: use models in "
                "float32 or bfloat16, or a lower learning rate for its surrogates"
            )
        parts.append(delta.grad[:new])
        objective += float(values[:new].sum()) / len(photos)
    return torch.cat(parts), objective


def _backward_through_models(teacher: Teacher, image: Tensor, rows: Sequence[int], noise: StepNoise) -> Tensor:
    """Sends the gradient of (B, 3, S, S) images back, and returns the (B,) mean objectives.

    Models whose latents are equal share one pass through the autoencoder, and one U-Net's graph is held at a time.
    """
    encoded: dict[object, Tensor] = {}
    slopes: dict[object, Tensor] = {}
    total = image.new_zeros(len(image))
    for index, (frozen, model) in enumerate(zip(teacher.frozen, teacher.models, strict=True)):
        key = frozen.encoding_key
        if key not in encoded:
            encoded[key] = encode(frozen, image, None if teacher.posterior_mean else noise)  # (B, C, h, w)
            slopes[key] = torch.zeros_like(encoded[key])
        latents = encoded[key].detach().requires_grad_(True)
        timesteps = teacher.timesteps(index, rows, noise).to(image.device)  # (B,)
        drawn = noise.normal(frozen.latent_shape).to(latents)  # (B, C, h, w)
        with teacher_autocast(image.device):
            values = teacher.objective(Sample(index, model, rows, latents, timesteps, drawn))  # (B,)
        (slope,) = torch.autograd.grad(values.sum() * (GRADIENT_SCALE / len(teacher.models)), latents)
        slopes[key] += slope
        total += values.detach() / len(teacher.models)
    torch.autograd.backward(list(encoded.values()), list(slopes.values()))
    return total


def encode(model: FrozenDiffusion, image: Tensor, noise: StepNoise | None) -> Tensor:
    """Returns (B, C, h, w) float32 latents of (B, 3, S, S) images: the posterior's mean, or a sample with noise."""
    resized = model.resize(image)  # (B, 3, native, native)
    if noise is None:
        return model.encode(resized).float()
    return model.encode_with(resized, noise.normal(model.latent_shape).to(image.device)).float()


@torch.no_grad()
def encode_clean(model: FrozenDiffusion, photos: Photos, batch: int) -> Tensor:
    """Returns (N, C, h, w) latents of the photos as they came, posterior means."""
    parts = [encode(model, photos.image(rows=rows), None) for rows in photos.batches(batch)]
    return torch.cat(parts)[: len(photos)]


def _packed(ascent: Ascent, teacher: Teacher) -> bytes:
    return pack({"delta": ascent.delta, "running": ascent.running}, teacher.state(), ascent.step)


def _resume(saved: bytes, ascent: Ascent, teacher: Teacher) -> None:
    tensors, state, ascent.step = unpack(saved)
    ascent.delta, ascent.running = (tensors[name].to(ascent.photos.device) for name in ("delta", "running"))
    teacher.restore(state)

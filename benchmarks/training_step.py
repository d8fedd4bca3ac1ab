"""The cost of one Adv-SDS step, row by row, against a plain one: `python -m benchmarks.training_step`.

The Adv-SDS step goes from the protected image to the loss's gradient in it; the whole step adds what is the same in
every row, the defender's forward and backward pass and AdamW. One thread. Rows:

- plain: one encode a model, fp32, and every U-Net's graph kept until the loss is there, though its target is detached
- no_grad: U-Nets without a graph
- + shared encodes: models with equal autoencoders share one encoding; with one model this changes nothing
- + bf16: autocast, where the hardware multiplies bfloat16
- + checkpointing: the encoder's activations are computed twice instead of kept

Ensembles (`benchmarks.step_models`): `sd-quarter` is Stable Diffusion 1.x's architecture at a quarter of its width and
at 128 px with a defender in proportion; `shipped` is the embedded pipeline and the default defender; `sd` is full size,
for a GPU. The models of an ensemble share one autoencoder.

Time is CPU-seconds (seconds on a GPU), the median over rounds that alternate the rows. Memory is the peak of allocated
bytes above what is allocated before: activations and gradients. With one model, rows are checked to give one loss. The
last line is the Adv-SDS step of three models of the last ensemble with the recipes' defaults, that is without
checkpointing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.step_models import ENSEMBLES
from rid.models.budget import levels_to_signed
from rid.models.defender import Defender, DefenderSize
from rid.models.frozen_diffusion import FrozenDiffusion, checkpoint_autoencoders
from rid.training.adv_sds import adv_sds_loss, adv_sds_target, adv_sds_weight, ensemble_adv_sds_loss
from rid.training.devices import multiplies_bfloat16
from rid.training.noise import StepNoise

COUNTS = (1, 3)
Loss = Callable[[Sequence[FrozenDiffusion], Tensor, StepNoise], Tensor]


@dataclass(frozen=True)
class Cost:
    """One step.

    Attributes:
        loss: of the ensemble.
        step_s: seconds of the whole step.
        adv_sds_s: seconds of the Adv-SDS step in it.
        adv_sds_bytes: peak of the Adv-SDS step; 0 where it was not measured.
        step_bytes: peak of the whole step; 0 where it was not measured.
    """

    loss: float
    step_s: float
    adv_sds_s: float
    adv_sds_bytes: int = 0
    step_bytes: int = 0


@dataclass(frozen=True)
class Row:
    """One way to do a step.

    Attributes:
        name: in the table.
        loss: of the ensemble.
        bfloat16: autocast.
        checkpointing: of the encoders.
        costs: of each round.
    """

    name: str
    loss: Loss
    bfloat16: bool = False
    checkpointing: bool = False
    costs: list[Cost] = field(default_factory=list)

    def median(self, name: str) -> float:
        """The median over rounds of a field of `Cost`."""
        return statistics.median(getattr(cost, name) for cost in self.costs)


def plain_loss(models: Sequence[FrozenDiffusion], image: Tensor, noise: StepNoise) -> Tensor:
    """Encodes for each model and keeps every graph, as a loop that holds its predictions does."""
    predictions, losses = [], []
    for model in models:
        z, timesteps, n = _drawn(model, image, noise)
        noisy = model.schedule.add_noise(z, n, timesteps)  # (B, C, h, w)
        predictions.append(model.predict_noise(noisy, timesteps))
        weight = adv_sds_weight(model.schedule.at(timesteps)).to(noisy.dtype)
        losses.append(F.mse_loss(noisy, adv_sds_target(noisy, predictions[-1], n, weight)))
    return torch.stack(losses).mean()


def separate_loss(models: Sequence[FrozenDiffusion], image: Tensor, noise: StepNoise) -> Tensor:
    """Encodes for each model; the U-Nets have no graph."""
    return torch.stack([adv_sds_loss(model, *_drawn(model, image, noise)) for model in models]).mean()


def _drawn(model: FrozenDiffusion, image: Tensor, noise: StepNoise) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, time steps and noise of one model."""
    posterior = noise.normal(model.latent_shape).to(image)
    z = model.encode_with(model.resize(image), posterior)  # (B, C, h, w)
    timesteps = noise.integers(0, len(model.schedule.abar)).to(z.device)  # (B,)
    return z, timesteps, noise.normal(model.latent_shape).to(z)


def rows(device: torch.device) -> list[Row]:
    """The rows that this machine can measure; each adds one thing to the one before."""
    half = multiplies_bfloat16(device)
    found = [Row("plain", plain_loss), Row("no_grad", separate_loss), Row("+ shared encodes", ensemble_adv_sds_loss)]
    if half:
        found.append(Row("+ bf16", ensemble_adv_sds_loss, bfloat16=True))
    return [*found, Row("+ checkpointing", ensemble_adv_sds_loss, bfloat16=half, checkpointing=True)]


class Step:
    """A defender, an optimiser and an ensemble, ready for one step after another."""

    def __init__(self, models: list[FrozenDiffusion], size: DefenderSize, batch: int) -> None:
        """Builds a seeded defender that outputs something, and a seeded batch."""
        self.models = models
        torch.manual_seed(0)
        self.defender = Defender(size)
        for name, parameter in self.defender.named_parameters():
            if "gate" in name or name == "linear.weight":
                torch.nn.init.normal_(parameter, std=0.02)
        side = size.working_resolution
        self.image = torch.rand(batch, 3, side, side).mul(2).sub(1).to(models[0].device)
        self.budget = torch.full((batch,), 6.0, device=models[0].device)
        self.defender.to(models[0].device)
        self.optimiser = torch.optim.AdamW(self.defender.parameters(), lr=0.0)

    def run(self, row: Row) -> Cost:
        """Does one step; the learning rate is 0, so that every step sees the same weights."""
        self.optimiser.zero_grad(set_to_none=True)
        began = _now(self.image.device)
        with self.autocast(row):
            protected = (self.image + levels_to_signed(self.defender(self.image, self.budget))).clamp(-1, 1)
        before = _now(self.image.device)
        loss, gradient = self.adv_sds(row, protected)
        after = _now(self.image.device)
        protected.backward(gradient)
        self.optimiser.step()
        return Cost(loss, _now(self.image.device) - began, after - before)

    def adv_sds(self, row: Row, protected: Tensor) -> tuple[float, Tensor]:
        """Returns the loss and its gradient in the protected image."""
        leaf = protected.detach().requires_grad_(True)  # (B, 3, S, S)
        with self.autocast(row):
            loss = row.loss(self.models, leaf, StepNoise(0, 0, range(len(leaf))))
        return loss.item(), torch.autograd.grad(loss, leaf)[0]

    def autocast(self, row: Row) -> torch.autocast:
        """The row's precision."""
        return torch.autocast(self.image.device.type, dtype=torch.bfloat16, enabled=row.bfloat16)


def measure(step: Step, measured: list[Row], rounds: int) -> list[Row]:
    """Runs the rows in alternating order, after a warm-up that checks them, and then their memory."""
    expected = None
    for row in measured:
        checkpoint_autoencoders(step.models, row.checkpointing)
        loss = step.run(row).loss
        expected = loss if expected is None else expected
        if len(step.models) == 1 and abs(loss - expected) > (0.05 if row.bfloat16 else 1e-4) * expected:
            raise RuntimeError(f"row {row.name} gives a loss of {loss} where the plain one gives {expected}")
    for turn in range(rounds):
        for row in measured if turn % 2 == 0 else reversed(measured):
            checkpoint_autoencoders(step.models, row.checkpointing)
            row.costs.append(step.run(row))
    for row in measured:
        checkpoint_autoencoders(step.models, row.checkpointing)
        step.optimiser.zero_grad(set_to_none=True)
        whole = _peak_bytes(partial(step.run, row), step.image.device)
        adv_sds = _peak_bytes(partial(step.adv_sds, row, step.image), step.image.device)
        row.costs[:] = [replace(cost, step_bytes=whole, adv_sds_bytes=adv_sds) for cost in row.costs]
    return measured


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Peak of allocated bytes while a function runs, above those allocated before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def print_table(measured: list[Row], title: str) -> dict[str, dict[str, float]]:
    """Prints one table and returns each row's ratios to the plain one, by field of `Cost`."""
    print(f"\n{title:22}{'Adv-SDS step: ms (min to max)':>34}{'ratio':>8}{'MiB':>8}{'ratio':>8}", end="")
    print(f"{'whole step: ms':>18}{'ratio':>8}{'MiB':>8}{'ratio':>8}")
    names = ("adv_sds_s", "adv_sds_bytes", "step_s", "step_bytes")
    ratios = {row.name: {name: row.median(name) / measured[0].median(name) for name in names} for row in measured}
    for row in measured:
        ms = sorted(1000 * cost.adv_sds_s for cost in row.costs)
        spread = f"{1000 * row.median('adv_sds_s'):.0f} ({ms[0]:.0f} to {ms[-1]:.0f})"
        print(f"{row.name:22}{spread:>34}{ratios[row.name]['adv_sds_s']:8.2f}", end="")
        print(f"{row.median('adv_sds_bytes') / 2**20:8.0f}{ratios[row.name]['adv_sds_bytes']:8.2f}", end="")
        print(f"{1000 * row.median('step_s'):18.0f}{ratios[row.name]['step_s']:8.2f}", end="")
        print(f"{row.median('step_bytes') / 2**20:8.0f}{ratios[row.name]['step_bytes']:8.2f}")
    return ratios


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0])
    parser.add_argument("--ensembles", nargs="+", choices=sorted(ENSEMBLES), default=["shipped", "sd-quarter"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {device}, batch {options.batch}, {options.rounds} rounds")
    if not multiplies_bfloat16(device):
        print("bf16: skipped, this device has no bfloat16 products and emulates them forty times slower than float32")
    for name in options.ensembles:
        for count in COUNTS:
            models, size = ENSEMBLES[name](count, device)
            measured = measure(Step(models, size, options.batch), rows(device), options.rounds)
            ratios = print_table(measured, f"{name}, {count} model{'s' if count > 1 else ''}")
    default, checkpointed = ratios[measured[-2].name], ratios["+ checkpointing"]
    print()
    for title, row, part in (
        ("whole step", default, "step"),
        ("with checkpointing", checkpointed, "adv_sds"),
        ("training_step", default, "adv_sds"),
    ):
        print(f"{title} time_ratio={row[f'{part}_s']:.2f} memory_ratio={row[f'{part}_bytes']:.2f}")


if __name__ == "__main__":
    main()

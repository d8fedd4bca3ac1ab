"""Small real training runs for the trainer's tests, and what kills them. Run as a script, it trains one.

python tests/support/training_runs.py --golden                # writes the golden loss trace again
accelerate launch ... tests/support/training_runs.py FOLDER   # trains with several processes
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rid.models.defender import Defender
from rid.models.frozen_diffusion import FrozenDiffusion, NoiseSchedule
from rid.training import trainer, training_state
from rid.training.batches import Batch, draw_batch
from rid.training.config import TrainingConfig
from rid.training.devices import training_accelerator
from rid.training.embedded.architecture import (
    EmbeddedSize,
    PredictionType,
    build_autoencoder,
    build_denoiser,
    build_noise_scheduler,
)
from rid.training.photo_set import PhotoSet
from rid.training.trainer import train_defender
from rid.training.training_state import STATE_FILE

GOLDEN = Path(__file__).parent / "golden" / "training_trace.json"
SIDE = 32
PRELOADED = [
    "rid.training.trainer",
    "torch.utils.tensorboard",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddpm",
    "transformers.models.clip.modeling_clip",
    "pytest",
]
CONFIG = TrainingConfig(
    recipe="test",
    size="tiny-32",
    budget_min=1,
    budget_max=16,
    budget_default=6,
    steps=10,
    batch=4,
    pair_batch=2,
    regression_weight=10.0,
    learning_rate=2e-3,
    warm_up_steps=3,
    ema_decay=0.9,
    precision="float32",
    checkpoint_every=3,
)


def random_model(
    prediction: PredictionType = "epsilon",
    *,
    channels: int = 4,
    native: int = SIDE,
    scaling: float = 0.9,
    seed: int = 0,
    vae_seed: int = 0,
) -> FrozenDiffusion:
    """A small model with random weights: right for what does not depend on what a model has learned."""
    size = EmbeddedSize(native, channels, (8, 8, 16, 16), (16, 32), 1, 16)
    torch.manual_seed(vae_seed)
    vae = build_autoencoder(size).eval().requires_grad_(False)
    torch.manual_seed(1000 + seed)
    unet = build_denoiser(size).eval().requires_grad_(False)
    return FrozenDiffusion(
        name=f"random-{seed}",
        vae=vae,
        unet=unet,
        schedule=NoiseSchedule(build_noise_scheduler(prediction).alphas_cumprod.double(), prediction),
        prompt_states=torch.randn(1, 4, 16),
        scaling_factor=scaling,
        shift_factor=0.0,
        native_resolution=native,
        encoder_digest=f"{vae_seed} {channels} {scaling}",
        text_digest=f"{seed}",
    )


def small_photo_set(count: int = 6, pairs: int = 3, side: int = SIDE + 4, budget: int = 8) -> PhotoSet:
    """Seeded pictures of large blocks, some with a perturbation that follows from the picture."""
    random = np.random.default_rng(5)
    coarse = random.uniform(0, 255, (count, side // 4, side // 4, 3))
    pixels = coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    teacher = np.round(budget * (pixels[count - pairs :] / 127.5 - 1)).astype(np.int8)
    return PhotoSet(pixels, np.arange(count - pairs, count), teacher, budget if pairs else 0)


def make_batch(photos: PhotoSet, config: TrainingConfig, step: int, **part: int) -> Batch:
    """A drawn batch as the losses take it."""
    return draw_batch(photos, config, step, **part).to(torch.device("cpu"))


def train_small(
    folder: Path,
    *,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    models: list[FrozenDiffusion] | None = None,
    initial: Defender | None = None,
    **changes: Any,
) -> Any:
    """Trains the small run in a folder."""
    torch.set_num_threads(1)
    models = models or [random_model(), random_model("v_prediction", seed=1)]
    return train_defender(
        replace(CONFIG, **changes), small_photo_set(), models, folder, initial=initial, on_step=on_step
    )


def die() -> None:
    """Ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder: str, step: int | None, when: str | None) -> None:
    """Trains, and kills itself in a step, or at a moment of writing the checkpoint after that step.

    Args:
        folder: of the run.
        step: number of the step; None is never.
        when: None kills in the step itself; else "half" of the checkpoint is written, it is "unnamed" yet, or "named".
    """
    finished = 0

    def on_step(record: dict[str, Any]) -> None:
        nonlocal finished
        finished = record["step"] + 1
        if when is None and record["step"] == step:
            die()

    def save_half(content: Any, file: io.BufferedWriter) -> None:
        buffer = io.BytesIO()
        real_save(content, buffer)
        if when == "half" and finished == step:
            file.write(buffer.getvalue()[: buffer.tell() // 2])
            file.flush()
            die()
        file.write(buffer.getvalue())

    def sync_or_die(path: Path) -> None:
        if when == "named" and finished == step:
            die()

    def fsync_or_die(descriptor: int) -> None:
        real_fsync(descriptor)
        if when == "unnamed" and finished == step and (Path(folder) / training_state.WRITING).exists():
            die()

    real_save, real_fsync = torch.save, os.fsync
    trainer.LOG_EVERY = 1
    torch.save = save_half
    os.fsync = fsync_or_die
    training_state._sync_folder = sync_or_die
    train_small(Path(folder), on_step=on_step)


def run_task_and_die(task: Any, checkpoint: int | None, environment: dict[str, str]) -> None:
    """Runs a training task, and kills itself after it has stored its n-th checkpoint; None is never."""
    from rid.assets.teaching import training_task
    from rid.assets.teaching.training_worker import train

    os.environ.update(environment)
    torch.set_num_threads(1)
    stored = 0
    real_store = training_task.store_checkpoint

    def store_and_die(*arguments: Any) -> None:
        nonlocal stored
        real_store(*arguments)
        stored += 1
        if stored == checkpoint:
            die()

    training_task.store_checkpoint = store_and_die
    train(task)


def train_and_die_when_told(task: Any, temporary: str) -> None:
    """Runs a training task of several processes, and kills itself when it hears of the first step."""
    import tempfile

    from rid.assets.teaching.training_worker import train

    tempfile.tempdir = temporary
    train(task, lambda record: die())


def in_child(function: Callable[..., None], *arguments: Any) -> int | None:
    """Runs a function of this module in a process of its own and returns its exit code.

    Processes fork from a clean server that has torch loaded, which takes milliseconds instead of seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    child = context.Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def load_state(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run, flat: name -> tensor or number."""
    flat: dict[str, Any] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict | list | tuple):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                flatten(f"{prefix}.{key}", inner)
        else:
            flat[prefix] = value

    flatten("", torch.load(folder / STATE_FILE, weights_only=True))
    return flat


def golden_trace(folder: Path) -> list[dict[str, float]]:
    """Step, losses and gradient norm of every step of the small run."""
    records: list[dict[str, Any]] = []
    train_small(folder, on_step=records.append)
    names = ("step", "adv_sds", "regression", "gradient_norm")
    return [{name: record[name] for name in names} for record in records]


def main() -> None:
    """Writes the golden trace, or trains in a folder with as many processes as were started."""
    if sys.argv[1] == "--golden":
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            trace = {"config": asdict(CONFIG), "steps": golden_trace(Path(folder))}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(trace, indent=1) + "\n")
    else:
        changes = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
        trainer.LOG_EVERY = 1
        train_small(Path(sys.argv[1]), **changes)
        sys.stdout.write(f"processes: {training_accelerator().num_processes}\n")  # one write: two processes share it
        sys.stdout.flush()


if __name__ == "__main__":
    main()

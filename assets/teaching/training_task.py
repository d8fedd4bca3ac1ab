"""One defender to train, and what each process of its training does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rid.assets.frozen.diffusion_models import load_models
from rid.assets.frozen.spaces import load_spaces
from rid.assets.teaching.run_photos import load_photo_set
from rid.resources.defender_registry import DefenderEntry
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.frozen.latent_spaces import SpaceSource
from rid.resources.storage import Storage

if TYPE_CHECKING:
    from rid.models.checkpoint import DefenderCard
    from rid.training.config import TrainingConfig
    from rid.training.photo_set import PhotoSet
    from rid.training.teachers.config import TeacherConfig

OnStep = Callable[[dict[str, Any]], None]

STATE, FINISHED = "state.pt", "defender.json"  # in a run's folder: until it is finished, and afterwards
SAMPLES = "samples.jpg"  # in a run's folder where it was asked for: it shows people
PHOTOS, INITIAL, DEFENDER = "photos", "initial", "defender"  # folders where a training runs
STORED: Literal["float16"] = "float16"  # the type of a trained defender's weights in its file; rounding moves no level


@dataclass(frozen=True)
class CardText:
    """Words of a defender on itself, as far as nobody can compute them.

    Attributes:
        name: short name shown in lists.
        description: in plain words; empty says what it was trained against.
        licence: of the weights.
        drops: names of the drops it was trained on, if they have any.
    """

    name: str = "defender"
    description: str = ""
    licence: str = "not stated"
    drops: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingTask:
    """One defender to train.

    Attributes:
        run: folder that names what is read (`run_photos`), and keeps the log and the checkpoints.
        home: where the squares lie.
        config: the training.
        models: the frozen diffusion models.
        spaces: the latent spaces.
        initial: the defender to start from; None starts afresh.
        teacher: made the perturbations; None: there are none.
        card: of the result.
        registry: RID_HOME where the defender is registered; None does not.
        output: folder that gets the defender with its ONNX file; None does not.
        shown: photos on the sample sheet.
        processes: one a GPU; 0 is as many as the machine has GPUs.
        device: "auto", "cpu" or "cuda".
        threads: of torch on a CPU; None leaves it to torch.
    """

    run: Storage
    home: Storage
    config: TrainingConfig
    models: tuple[DiffusionSource, ...]
    spaces: tuple[SpaceSource, ...] = ()
    initial: DefenderEntry | None = None
    teacher: TeacherConfig | None = None
    card: CardText = field(default_factory=CardText)
    registry: Storage | None = None
    output: Storage | None = None
    shown: int = 0
    processes: int = 1
    device: str = "auto"
    threads: int | None = None


def to_json(task: TrainingTask) -> dict[str, Any]:
    """Returns what a process of a training has to know, for a file that it reads."""
    return {
        "run": task.run.url,
        "home": task.home.url,
        "config": task.config.to_json(),
        "models": [asdict(model) for model in task.models],
        "spaces": [asdict(space) for space in task.spaces],
        "initial": asdict(task.initial) if task.initial is not None else None,
        "teacher": task.teacher.to_json() if task.teacher is not None else None,
        "card": asdict(task.card),
        "device": task.device,
        "threads": task.threads,
    }


def from_json(fields: dict[str, Any]) -> TrainingTask:
    """Reads what `to_json` returned."""
    from rid.training.config import TrainingConfig
    from rid.training.teachers.config import TeacherConfig

    initial, teacher, card = fields["initial"], fields["teacher"], fields["card"]
    return TrainingTask(
        run=Storage(fields["run"]),
        home=Storage(fields["home"]),
        config=TrainingConfig(**fields["config"]),
        models=tuple(DiffusionSource(**model) for model in fields["models"]),
        spaces=tuple(SpaceSource(**space) for space in fields["spaces"]),
        initial=DefenderEntry(**initial | {"aliases": tuple(initial["aliases"])}) if initial is not None else None,
        teacher=TeacherConfig.from_json(teacher) if teacher is not None else None,
        card=CardText(**card | {"drops": tuple(card["drops"])}),
        device=fields["device"],
        threads=fields["threads"],
    )


def train_here(task: TrainingTask, folder: Path, on_step: OnStep | None = None) -> None:
    """Trains as one of the processes of a training; the main one writes the folder of the defender.

    Args:
        task: what to train.
        folder: has what `train` fetched; gets the log, the checkpoints and the defender.
        on_step: called with the record of each step, in the main process.
    """
    import torch

    from rid.models.checkpoint import load_defender, save_defender
    from rid.training.devices import training_accelerator
    from rid.training.trainer import train_defender

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    accelerator = training_accelerator(task.device)
    models = load_models(task.models, device=accelerator.device)
    photos = load_photo_set(task.home, task.run, folder / PHOTOS)
    defender = train_defender(
        task.config,
        photos,
        models,
        folder,
        spaces=load_spaces(task.spaces, device=accelerator.device),
        initial=load_defender(folder / INITIAL)[0] if task.initial is not None else None,
        accelerator=accelerator,
        on_step=on_step,
        on_checkpoint=lambda _: store_checkpoint(task.run, folder),
    )
    if accelerator.is_main_process:
        save_defender(folder / DEFENDER, defender, training_card(task, photos, folder), precision=STORED)
    accelerator.end_training()


def training_card(task: TrainingTask, photos: PhotoSet, folder: Path) -> DefenderCard:
    """Says what was trained on what; paths are not in it."""
    from rid.models.budget import BudgetRange
    from rid.models.checkpoint import DefenderCard
    from rid.training.run_log import LOG_FILE, read_log, summarise_losses

    config, names = task.config, [source.name for source in task.models]
    spaces = [source.name for source in task.spaces]
    against = f"against {', '.join([*names, *spaces])}" if names or spaces else "without a frozen model"
    training: dict[str, Any] = {
        "config": config.to_json(),
        "models": names,
        "spaces": spaces,
        "photos": len(photos.pixels),
        "initial": task.initial.digest if task.initial is not None else None,
        "losses": summarise_losses(read_log(folder / LOG_FILE)),
    }
    if task.teacher is not None:
        training["teacher"] = {**task.teacher.to_json(), "photos": len(photos.teacher)}
    if task.card.drops:
        training["drops"] = ",".join(task.card.drops)
    return DefenderCard(
        name=task.card.name,
        description=task.card.description
        or f"Trained {against} with the recipe {config.recipe}. It is a protection against nothing else.",
        budget=BudgetRange(config.budget_min, config.budget_max, config.budget_default),
        licence=task.card.licence,
        origin=f"recipe {config.recipe}",
        training=training,
    )


def store_checkpoint(run: Storage, folder: Path) -> None:
    """Copies a run's checkpoint to where the next worker finds it; the log first, since a log may be ahead."""
    store_board(run, folder)
    for name in ("log.jsonl", STATE):
        run.write_file(name, folder / name)


def store_board(run: Storage, folder: Path) -> None:
    """Copies the run's TensorBoard files; each process that worked on the run has its own."""
    for file in (folder / "tensorboard").iterdir():
        run.write_file(f"tensorboard/{file.name}", file)

"""What workers run to train a defender. Strings and numbers in."""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rid.assets.frozen.diffusion_models import load_models, sources
from rid.assets.reports.pairs import PhotoPair
from rid.assets.reports.pictures import contact_sheet, jpeg
from rid.resources.defender_registry import DefenderRegistry, fetch_defender
from rid.resources.storage import Storage

# In a run's folder; the first two until it is finished, the last afterwards.
PHOTOS, STATE, FINISHED = "photos.npz", "state.pt", "defender.json"
SAMPLES = "samples.jpg"  # in a run's folder where it was asked for: it shows people


@dataclass(frozen=True)
class TrainingTask:
    """One defender to train.

    Attributes:
        folder: where `photos.npz` lies, and where the log and the checkpoints are kept.
        config_json: the training configuration.
        models_json: the frozen models.
        home: RID_HOME, where the defender is registered.
        name: of the defender.
        drops: comma-separated, for the card.
        initial_json: location and config.json of the defender to start from; empty starts afresh.
        shown: photos on the sample sheet.
    """

    folder: str
    config_json: str
    models_json: str
    home: str
    name: str
    drops: str
    initial_json: str = ""
    shown: int = 0


def train(task: TrainingTask) -> str:
    """Trains a defender, registers it and returns its digest. The task's folder gets `log.jsonl` and `tensorboard/`.

    Each checkpoint is copied to the task's folder, so that whichever worker gets the task after a kill goes on there.
    """
    storage = Storage(task.folder)
    if storage.exists(FINISHED):
        return str(json.loads(storage.read_bytes(FINISHED))["digest"])
    from rid.models.budget import BudgetRange
    from rid.models.checkpoint import DefenderCard, save_defender
    from rid.training.config import TrainingConfig
    from rid.training.devices import training_accelerator
    from rid.training.photo_set import PhotoSet
    from rid.training.run_log import LOG_FILE, read_log, summarise_losses
    from rid.training.trainer import train_defender

    config = TrainingConfig(**json.loads(task.config_json))
    with np.load(io.BytesIO(storage.read_bytes(PHOTOS))) as arrays:
        photos = PhotoSet(arrays["pixels"], arrays["teacher_index"], arrays["teacher"], int(arrays["teacher_budget"]))
    accelerator = training_accelerator()
    models = load_models(task.models_json)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary)
        fetch_checkpoint(storage, run)
        initial = load_initial(task.initial_json, run / "initial") if task.initial_json else None
        defender = train_defender(
            config,
            photos,
            models,
            run,
            initial=initial,
            accelerator=accelerator,
            on_checkpoint=lambda step: store_checkpoint(storage, run),
        )
        names = [source.name for source in sources(task.models_json)]
        card = DefenderCard(
            name=task.name,
            description=f"Trained against {', '.join(names)}, recipe {config.recipe}; no protection against others.",
            budget=BudgetRange(config.budget_min, config.budget_max, config.budget_default),
            licence="yours: trained on your photos",
            origin=f"recipe {config.recipe}",
            training={
                "config": config.to_json(),
                "models": names,
                "photos": len(photos.pixels),
                "drops": task.drops,
                "initial": json.loads(task.initial_json)["config"]["digest"] if task.initial_json else None,
                "losses": summarise_losses(read_log(run / LOG_FILE)),
            },
        )
        digest = save_defender(run / "defender", defender, card)
        DefenderRegistry(Storage(task.home), run).register(run / "defender")
        store_board(storage, run)
        if task.shown:
            storage.write_bytes(SAMPLES, sample_sheet(defender, photos.pixels[: task.shown], config.budget_default))
    storage.write_bytes(FINISHED, json.dumps({"digest": digest}).encode())
    storage.discard(STATE)
    storage.discard(PHOTOS)  # squares of people: kept no longer than they are needed
    return digest


def sample_sheet(defender: Any, pixels: NDArray[np.uint8], budget_levels: int) -> bytes:
    """Draws (B, S, S, 3) photos as they are, protected, and the amplified change; a JPEG, twice as large."""
    from rid.training.evaluation.effect.defended import perturb_squares

    changes = perturb_squares(defender, pixels, budget_levels)
    pairs = [
        PhotoPair(str(i), clean, (clean + change).astype(np.uint8))
        for i, (clean, change) in enumerate(zip(pixels, changes, strict=True))
    ]
    return jpeg(contact_sheet(pairs, budget_levels).repeat(2, axis=0).repeat(2, axis=1))


def fetch_checkpoint(storage: Storage, run: Path) -> None:
    """Copies a run's last checkpoint and its log here, if there are any."""
    for name in ("log.jsonl", STATE):
        if storage.exists(name):
            (run / name).write_bytes(storage.read_bytes(name))


def store_checkpoint(storage: Storage, run: Path) -> None:
    """Copies a run's checkpoint to where the next worker finds it; the log first, since a log may be ahead."""
    store_board(storage, run)
    for name in ("log.jsonl", STATE):
        storage.write_file(name, run / name)


def store_board(storage: Storage, run: Path) -> None:
    """Copies the run's TensorBoard files; each process that worked on the run has its own."""
    for file in (run / "tensorboard").iterdir():
        storage.write_file(f"tensorboard/{file.name}", file)


def load_initial(initial_json: str, folder: Path) -> Any:
    """Fetches and checks the defender that a training starts from, and returns its network."""
    from rid.models.checkpoint import load_defender

    initial = json.loads(initial_json)
    config = initial["config"]
    files = {name: sha for name, sha in config["files"].items() if name.endswith(".safetensors")}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, data in fetch_defender(initial["location"], config["digest"], files).items():
        (folder / name).write_bytes(data)
    return load_defender(folder)[0]


def store_array(storage: Storage, name: str, array: NDArray[Any]) -> None:
    """Writes one .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    storage.write_bytes(name, buffer.getvalue())


def load_array(storage: Storage, name: str) -> NDArray[Any]:
    """Reads one .npy file; pickles are refused."""
    array: NDArray[Any] = np.load(io.BytesIO(storage.read_bytes(name)), allow_pickle=False)
    return array

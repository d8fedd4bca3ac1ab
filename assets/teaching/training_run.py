"""Trains a defender on catalogued photos: squares, perturbations, the training, and what is left of it.

The asset `defender` and `rid train` are both this. A run is named by digests of everything that decides its result:
the configuration, the photos, the perturbations, the files of every model, and the defender that it starts from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rid.assets.catalog.plan import DropCatalog
from rid.assets.teaching.progress import Progress, Report, silent
from rid.assets.teaching.run_photos import TRAINING, Perturbed, PhotoPlan, plan_photos, release_photos
from rid.assets.teaching.teacher_cache import DropIndex
from rid.assets.teaching.teacher_run import TeacherRequest, finished_index, perturb_drop
from rid.assets.teaching.training_task import FINISHED, STATE, CardText, OnStep, TrainingTask
from rid.assets.teaching.training_worker import train
from rid.resources.dask_workers import Workers
from rid.resources.defender_registry import DefenderEntry
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.frozen.latent_spaces import SpaceSource
from rid.resources.storage import Storage
from rid.training.run_log import CURVES

if TYPE_CHECKING:
    from rid.training.config import TrainingConfig

ASKED = "training.json"  # in a run's folder, from its beginning: what it is a run of
TRAINING_SECONDS = 30 * 86400.0  # the longest training that is waited for


@dataclass(frozen=True)
class TrainingRequest:
    """Which defender, from what.

    Attributes:
        home: RID_HOME, or the folder that stands for it: has squares, perturbations and the folders of runs.
        catalogs: of the photos, by drop, in order.
        config: the training.
        models: frozen diffusion models that the losses look through.
        spaces: latent spaces in which photos are moved.
        side: of the squares.
        teacher: the perturbations to learn from; None learns from none.
        initial: the defender to start from; None starts afresh.
        card: what the result says of itself.
        run: the run's folder; None is one under `home` that its digest names.
        registry: RID_HOME where the result is registered; None does not.
        output: folder that gets the result with its ONNX file; None does not.
        perturb: makes perturbations that are missing, instead of refusing.
        shown: photos on the sample sheet.
        processes: one a GPU; 0 is as many as the machine has GPUs.
        device: "auto", "cpu" or "cuda".
        threads: of torch on a CPU; None leaves it to torch.
    """

    home: Storage
    catalogs: Mapping[str, DropCatalog]
    config: TrainingConfig
    models: tuple[DiffusionSource, ...]
    spaces: tuple[SpaceSource, ...]
    side: int
    teacher: TeacherRequest | None = None
    initial: DefenderEntry | None = None
    card: CardText = field(default_factory=CardText)
    run: Storage | None = None
    registry: Storage | None = None
    output: Storage | None = None
    perturb: bool = False
    shown: int = 0
    processes: int = 1
    device: str = "auto"
    threads: int | None = None

    def asked(self, photos: PhotoPlan) -> dict[str, Any]:
        """Returns what a run is recognised by: its configuration, and digests of all else that decides its result."""
        teacher = self.teacher
        chosen = [teacher.digest(), teacher.selection.digest()] if teacher else None
        files = sum(len(names) for names in photos.names.values())
        return {
            **self.config.to_json(),
            "photos": f"{files} files of squares with digest {photos.digest()[:16]}",
            "perturbations": f"{teacher.teacher.method} with digest {_digest(chosen)[:16]}" if teacher else None,
            "models": [f"{model.name} with digest {model.digest()[:16]}" for model in self.models],
            "spaces": [f"{space.name} with digest {space.digest()[:16]}" for space in self.spaces],
            "initial": self.initial.digest if self.initial else None,
        }


@dataclass(frozen=True)
class TrainingWorkers:
    """Where the parts of a training run.

    Attributes:
        photos: decode photos and gather perturbations.
        teachers: perturb.
        training: trains.
    """

    photos: Workers
    teachers: Workers
    training: Workers


@dataclass(frozen=True)
class Trained:
    """A trained defender.

    Attributes:
        digest: of the defender.
        run: its folder, with log and TensorBoard files.
        now: whether this run trained it, or found it.
        photos: squares it learned from.
        left_out: photos that could not be decoded.
        perturbations: squares with a teacher's perturbation.
    """

    digest: str
    run: Storage
    now: bool
    photos: int
    left_out: int
    perturbations: int


def run_training(request: TrainingRequest, workers: TrainingWorkers, report: Report = silent) -> Trained:
    """Trains a defender, or finds it; a run that was stopped goes on from its last checkpoint.

    Args:
        request: what to train.
        workers: where.
        report: called as photos are read and perturbed, and at each step of a training in this process.

    Raises:
        ValueError: if the recipe, the photos, the perturbations or a model do not fit, or the run's folder belongs to
            another run; the sentence says what differs.
        RuntimeError: if a worker died; what was finished, and the last checkpoint, are kept.
    """
    _check(request)
    plain = plan_photos(request.home, request.side, request.catalogs)
    asked, run = request.asked(plain), request.run
    found = _begin(request, run, asked) if run is not None else None
    if found is not None:
        return found
    plan = replace(plain, perturbed=_perturbed(request, plain, workers, report))
    if workers.teachers is not workers.training:
        workers.teachers.close()  # their models would lie beside those of the training
    if run is None:
        run = request.home.child(TRAINING, _digest([asked, plan.digest()])[:32])
        found = _begin(request, run, asked)
        if found is not None:
            return found
    prepared = plan.prepare(workers.photos, run, _on_cut(request, report))
    digest = _train(request, run, workers.training, report)
    held = {"digest": digest, "photos": prepared.photos, "left_out": prepared.left_out}
    run.write_bytes(FINISHED, json.dumps(held | {"perturbations": prepared.perturbations}).encode())
    run.discard(STATE)
    release_photos(request.home, run)  # squares of people: kept no longer than they are needed
    return Trained(digest, run, True, prepared.photos, prepared.left_out, prepared.perturbations)


def _check(request: TrainingRequest) -> None:
    """Finds out before any photo is read what the trainer would refuse."""
    from rid.models.networks import SIZES

    if request.config.uses_models and not request.models:
        raise ValueError(
            f"recipe {request.config.recipe!r} trains through frozen diffusion models: list at least one hub id, "
            "folder, or 'embedded'"
        )
    if request.config.space_weight and not request.spaces:
        raise ValueError(
            f"recipe {request.config.recipe!r} moves photos in latent spaces: list at least one short name, hub id, "
            "folder, or 'embedded' as a space"
        )
    needed = SIZES[request.config.size].working_resolution
    if request.side < needed:
        raise ValueError(
            f"squares of {request.side} px are smaller than the {needed} px at which {request.config.size} works: "
            "read them larger"
        )


def _perturbed(
    request: TrainingRequest, plain: PhotoPlan, workers: TrainingWorkers, report: Report
) -> Perturbed | None:
    """Finds the perturbations to learn from, and makes those that are missing where that was asked for.

    Raises:
        ValueError: if they are missing and were not asked for.
    """
    teacher = request.teacher
    if teacher is None:
        return None
    indices: list[DropIndex] = []
    for drop, catalog in request.catalogs.items():
        if not request.perturb:
            index = teacher.cache().read_index(drop, teacher.selection)
            if index is None:
                raise ValueError(
                    f"drop {drop!r} has no perturbations of this teacher, share and seed: materialise "
                    "teacher_perturbations with the same configuration first"
                )
        else:
            left = _after(teacher, indices)
            index = finished_index(left, drop, catalog)
            if index is None:
                assert request.run is not None, "who asks for perturbations names the run"
                plain.prepare(workers.photos, request.run, _on_cut(request, report))  # kept for the training
                index, _ = perturb_drop(
                    left, drop, catalog, workers.teachers, photo_workers=workers.photos, report=report
                )
        indices.append(index)
    return teacher.perturbed(indices)


def _after(teacher: TeacherRequest, indices: list[DropIndex]) -> TeacherRequest:
    """Returns the request for the next drop: the largest number of photos holds for all drops together."""
    largest = teacher.selection.largest
    if largest is None:
        return teacher
    left = max(0, largest - sum(len(unit.photos) for index in indices for unit in index.units))
    return replace(teacher, selection=replace(teacher.selection, largest=left))


def _train(request: TrainingRequest, run: Storage, workers: Workers, report: Report) -> str:
    """Runs the task of a training, in this process or on a worker."""
    task = TrainingTask(
        run=run,
        home=request.home,
        config=request.config,
        models=request.models,
        spaces=request.spaces,
        initial=request.initial,
        teacher=request.teacher.teacher if request.teacher else None,
        card=request.card,
        registry=request.registry,
        output=request.output,
        shown=request.shown,
        processes=request.processes,
        device=request.device,
        threads=request.threads,
    )
    tell = _on_step(request.config.steps, report)

    def train_here(task: TrainingTask) -> str:
        return train(task, tell)

    function = train if workers.separate else train_here
    (done,) = workers.run(function, [task], prefix="train", expected=1, gpu=True, longest=TRAINING_SECONDS)
    if done.result is None:
        raise RuntimeError("the worker died while it trained: run again to go on from the last checkpoint")
    return done.result


def _found(request: TrainingRequest, run: Storage) -> Trained | None:
    """Returns what a finished run made, if it is still there."""
    if not run.exists(FINISHED):
        return None
    held = json.loads(run.read_bytes(FINISHED))
    digest = str(held["digest"])
    if request.registry is not None and not request.registry.child("defenders").exists(f"{digest}/config.json"):
        return None
    if request.output is not None:
        config = request.output.read_bytes("config.json") if request.output.exists("config.json") else b"{}"
        if json.loads(config).get("digest") != digest:
            return None
    counts = (int(held.get(name, 0)) for name in ("photos", "left_out", "perturbations"))
    return Trained(digest, run, False, *counts)


def _begin(request: TrainingRequest, run: Storage, asked: dict[str, Any]) -> Trained | None:
    """Returns what a finished run made; else notes in the run's folder what is trained there.

    Raises:
        ValueError: if another run was finished there, or stopped behind a checkpoint.
    """
    held = json.loads(run.read_bytes(ASKED)) if run.exists(ASKED) else asked
    different = sorted(name for name in held.keys() | asked.keys() if held.get(name) != asked.get(name))
    if different and (run.exists(STATE) or run.exists(FINISHED)):
        changes = "; ".join(f"{name} was {held.get(name)!r} and is {asked.get(name)!r}" for name in different)
        raise ValueError(f"{run.url} holds another training ({changes}): give another folder, or delete this one")
    if different:
        release_photos(request.home, run)  # nothing was trained on them
    found = _found(request, run)
    if found is None:
        run.write_bytes(ASKED, json.dumps(asked, indent=1, sort_keys=True).encode())
    return found


def _on_cut(request: TrainingRequest, report: Report) -> Any:
    """Returns what tells of squares as they are cut."""
    total, done = sum(catalog.photos for catalog in request.catalogs.values()), 0

    def on_cut(rows: int) -> None:
        nonlocal done
        done += rows
        report(Progress("cut squares", done, total))

    return on_cut


def _on_step(steps: int, report: Report) -> OnStep:
    """Returns what tells of steps as they are done."""

    def on_step(record: dict[str, Any]) -> None:
        losses = ", ".join(f"{name} {record[name]:.4f}" for name in CURVES if record[name])
        report(Progress("train", record["step"] + 1, steps, unit="step", note=losses))

    return on_step


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

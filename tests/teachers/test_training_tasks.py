"""The task of a training: killed, started again, in one process or in several."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from random_pipelines import write_random_pipeline
from small_catalogs import HERE, write_photos
from training_runs import CONFIG, SIDE, in_child, run_task_and_die, train_and_die_when_told

from rid.assets.teaching.photo_sources import catalogue_sources
from rid.assets.teaching.run_photos import plan_photos
from rid.assets.teaching.training_processes import process_count
from rid.assets.teaching.training_task import CardText, TrainingTask, from_json, to_json
from rid.assets.teaching.training_worker import fetch_initial, train
from rid.models.checkpoint import load_defender
from rid.resources.dask_workers import Workers
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.frozen.latent_spaces import SpaceSource
from rid.resources.storage import Storage
from rid.training.run_log import LOG_FILE
from rid.training.teachers.config import TeacherConfig

KILLED = -9
SHIPPED = Path(__file__).parents[2] / "models" / "weights"


def training_task(home: Storage, photos: Path, pipeline: Path, **changes: Any) -> TrainingTask:
    """A task of 8 steps whose squares are cut."""
    run = home.child("training", "run")
    with Workers(HERE) as workers:
        catalogs = catalogue_sources(home.child("catalogs"), [Storage(str(photos))], workers)
        plan_photos(home, SIDE, catalogs).prepare(workers, run)
    config = replace(CONFIG, steps=8, checkpoint_every=2)
    models = (DiffusionSource(str(pipeline)),)
    card = CardText("test", drops=("monday",))
    task = TrainingTask(run, home, config, models, card=card, registry=home, device="cpu", threads=1)
    return replace(task, **changes)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_pipeline(tmp_path_factory.mktemp("pipeline"), "v_prediction")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 4)
    return tmp_path / "photos"


def test_a_killed_training_goes_on_where_its_last_checkpoint_lies(
    store: Storage, photos: Path, pipeline: Path, tmp_path: Path
) -> None:
    """On disk and on S3, by a process that shares nothing with the first one."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    task = training_task(store, photos, pipeline)
    for checkpoint in (1, 2):
        assert in_child(run_task_and_die, task, checkpoint, environment) == KILLED
        assert store.exists("training/run/state.pt")
    steps = [json.loads(line)["step"] for line in store.read_bytes(f"training/run/{LOG_FILE}").splitlines()]
    assert steps == [0]  # the second process went on behind step 0 instead of doing it again
    assert in_child(run_task_and_die, task, None, environment) == 0
    assert len(list(store.list_files("training/run/tensorboard"))) == 3  # one of each process
    (made,) = DefenderRegistry(store, tmp_path).entries()
    assert made.config["training"]["drops"] == "monday"

    whole = training_task(Storage(str(tmp_path / "whole")), photos, pipeline)
    assert in_child(run_task_and_die, whole, None, environment) == 0
    (same,) = DefenderRegistry(whole.home, tmp_path).entries()
    assert same.digest == made.digest


@pytest.mark.slow
def test_two_processes_that_a_task_starts_train_a_defender(photos: Path, pipeline: Path, tmp_path: Path) -> None:
    """Real processes over gloo; the steps are told once, and so is what is wrong."""
    task = training_task(Storage(str(tmp_path / "home")), photos, pipeline, processes=2)
    told: list[dict[str, Any]] = []
    digest = train(task, told.append)
    assert [record["step"] for record in told] == list(range(8))
    assert DefenderRegistry(task.home, tmp_path).resolve(digest).config["training"]["photos"] == 4
    with pytest.raises(ValueError, match="holds the checkpoint of another run"):
        train(replace(task, config=replace(task.config, learning_rate=1e-3)))
    alone = replace(task, config=replace(task.config, batch=1, pair_batch=1), run=task.home.child("training", "alone"))
    alone.run.write_bytes("photos.json", task.run.read_bytes("photos.json"))
    with pytest.raises(ValueError, match="leaves some of 2 processes idle"):
        train(alone)


@pytest.mark.slow
def test_the_processes_of_a_task_that_was_killed_end(photos: Path, pipeline: Path, tmp_path: Path) -> None:
    task = training_task(Storage(str(tmp_path / "home")), photos, pipeline, processes=2)
    task = replace(task, config=replace(task.config, steps=100_000, checkpoint_every=100_000))
    (tmp_path / "temporary").mkdir()
    assert in_child(train_and_die_when_told, task, str(tmp_path / "temporary")) == KILLED
    deadline = time.monotonic() + 120
    while left := processes_of(tmp_path / "temporary"):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def processes_of(folder: Path) -> list[str]:
    """The processes that were started over a folder."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def test_a_task_is_the_same_in_every_process(photos: Path, pipeline: Path, tmp_path: Path) -> None:
    entry = DefenderRegistry(Storage(str(tmp_path / "home")), SHIPPED).resolve("default")
    spaces, teacher = (SpaceSource(str(pipeline)),), TeacherConfig("mist", prompt=" ", seed=3)
    task = training_task(
        Storage(str(tmp_path / "home")), photos, pipeline, initial=entry, spaces=spaces, teacher=teacher
    )
    assert from_json(json.loads(json.dumps(to_json(task)))) == replace(task, registry=None)


def test_processes_are_one_a_gpu() -> None:
    assert process_count(0, "cpu") == 1 and process_count(3, "cpu") == 3
    with pytest.raises(ValueError, match="-1 processes are not possible"):
        process_count(-1, "cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert process_count(0, "auto") == 2 and process_count(1, "cuda") == 1
    with pytest.raises(ValueError, match="3 processes need as many GPUs and this machine has 2"):
        process_count(3, "auto")


def test_the_defender_to_start_from_is_fetched_and_checked(tmp_path: Path) -> None:
    entry = DefenderRegistry(Storage(str(tmp_path / "home")), SHIPPED).resolve("default")
    fetch_initial(entry, tmp_path / "initial")
    initial, _ = load_defender(tmp_path / "initial")
    expected, _ = load_defender(SHIPPED / "default")
    assert all(bool((a == b).all()) for a, b in zip(initial.parameters(), expected.parameters(), strict=True))
    with pytest.raises(ValueError, match="missing"):
        fetch_initial(replace(entry, location=str(tmp_path / "nowhere")), tmp_path / "other")

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_runs import CONFIG, in_child, run_task_and_die, small_photo_set

from rid.assets.teaching.training_run import TrainingTask, load_initial, train
from rid.models.checkpoint import load_defender
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.storage import Storage
from rid.training.run_log import LOG_FILE

KILLED = -9
SHIPPED = Path(__file__).parents[2] / "models" / "weights"


def training_task(storage: Storage, pipelines: dict[str, Path], **changes: int) -> TrainingTask:
    photos = small_photo_set()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        pixels=photos.pixels,
        teacher_index=photos.teacher_index,
        teacher=photos.teacher,
        teacher_budget=np.array(photos.teacher_budget),
    )
    storage.write_bytes("training/run/photos.npz", buffer.getvalue())
    config = replace(CONFIG, steps=8, checkpoint_every=2, **changes)
    models = [{"location": str(pipelines["v_prediction"]), "native_resolution": 32}]
    return TrainingTask(
        storage.child("training", "run").url,
        json.dumps(config.to_json()),
        json.dumps(models),
        storage.url,
        "test",
        "monday",
    )


def test_a_killed_training_goes_on_where_its_last_checkpoint_lies(
    store: Storage, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """On disk and on S3, by a process that shares nothing with the first one."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    task = training_task(store, pipelines)
    for checkpoint in (1, 2):
        assert in_child(run_task_and_die, task, checkpoint, environment) == KILLED
        assert store.exists("training/run/state.pt")
    steps = [json.loads(line)["step"] for line in store.read_bytes(f"training/run/{LOG_FILE}").splitlines()]
    assert steps == [0]  # the second process went on behind step 0 instead of doing it again
    assert in_child(run_task_and_die, task, None, environment) == 0
    assert len(list(store.list_files("training/run/tensorboard"))) == 3  # one of each process
    digest = json.loads(store.read_bytes("training/run/defender.json"))["digest"]
    assert not store.exists("training/run/state.pt")
    assert DefenderRegistry(Storage(store.url), tmp_path).resolve(digest).config["training"]["drops"] == "monday"

    whole = training_task(Storage(str(tmp_path / "whole")), pipelines)
    assert in_child(run_task_and_die, whole, None, environment) == 0
    assert json.loads(Storage(whole.folder).read_bytes("defender.json"))["digest"] == digest
    assert train(task) == digest  # and a finished one is only looked up


def test_the_defender_to_start_from_is_fetched_and_checked(tmp_path: Path) -> None:
    entry = DefenderRegistry(Storage(str(tmp_path / "home")), SHIPPED).resolve("default")
    initial = load_initial(json.dumps({"location": entry.location, "config": entry.config}), tmp_path / "initial")
    expected, _ = load_defender(SHIPPED / "default")
    assert all(bool((a == b).all()) for a, b in zip(initial.parameters(), expected.parameters(), strict=True))
    with pytest.raises(ValueError, match="missing"):
        load_initial(json.dumps({"location": str(tmp_path / "nowhere"), "config": entry.config}), tmp_path / "other")

"""`rid train`: photos in, a defender folder out; stopped, continued, found, refused where something else is meant."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from random_pipelines import write_random_pipeline
from small_catalogs import photo_bytes, tree
from small_spaces import save_spaces

from rid.assets.teaching import training_task
from rid.assets.teaching.photo_cache import PhotoCache
from rid.dagster_project.commands.train import per_model
from rid.models.photo_files.images import decode
from rid.models.photo_files.resampling import shrink
from rid.models.policy import READ_ALL
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage
from rid.training.run_log import read_log

SMALL = ['size="tiny-32"', "steps=4", "batch=2", "pair_batch=1", "checkpoint_every=2"]
QUICK = ["--teacher-share", "1", "--teacher-steps", "2", "--device", "cpu", "--threads", "1", "--workers", "0"]


def write_people(file: Path, first: int = 0) -> Path:
    """Four photos of two people."""
    images = [{"bytes": photo_bytes(first + seed), "path": f"{seed}.jpg"} for seed in range(4)]
    pq.write_table(pa.table({"image": pa.array(images, IMAGE), "who": ["a", "a", "b", "b"]}), file)
    return file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models with other U-Nets and equal autoencoders."""
    folder = tmp_path_factory.mktemp("models")
    return [write_random_pipeline(folder / str(seed), seed=seed) for seed in range(2)]


@pytest.fixture
def command(rid: Any, models: list[Path], tmp_path: Path) -> list[str]:
    """Arguments of a training that takes seconds."""
    photos = write_people(tmp_path / "people.parquet")
    pipeline = shutil.copytree(models[0], tmp_path / "model")
    fields = [word for field in SMALL for word in ("--set", field)]
    common = ["--photos", str(photos), "--models", str(pipeline), "--out", str(tmp_path / "out")]
    return ["train", "--recipe", "demo", *common, *fields, *QUICK]


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def stopped(rid: Any, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a training until its first checkpoint is kept."""

    def store_and_stop(run: Storage, folder: Path) -> None:
        real(run, folder)
        raise KeyboardInterrupt

    real = training_task.store_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(training_task, "store_checkpoint", store_and_stop)
        code, _, err = rid(*command)
    assert code == 130 and "run the same command again" in err


def test_a_training_makes_a_defender_that_protects_and_is_found_again(
    rid: Any, command: list[str], tmp_path: Path
) -> None:
    given = ["--name", "mine", "--licence", "CC0", "--teacher-photos", "3", "--model-resolution", "32", "--register"]
    code, out, err = rid(*command, *given)
    assert code == 0, err
    config = config_of(tmp_path / "out" / "defender")
    assert (config["name"], config["licence"], config["budget"]["max"]) == ("mine", "CC0", 16)
    assert config["training"]["photos"] == 4 and config["training"]["teacher"]["photos"] == 3
    assert config["training"]["config"]["steps"] == 4 and config["training"]["models"] == ["model"]
    assert str(tmp_path) not in json.dumps(config) and "model.onnx" in config["files"]
    assert "learned from      4 photos, 3 of them with a perturbation" in out
    assert f"rid defenders promote {config['digest'][:12]}" in out
    assert rid("defenders", "list")[1].count(config["digest"][:12]) == 1
    left = {path.split("/")[0] for path in tree(tmp_path / "out" / "run" / "training")}
    assert left == {"defender"}, "squares of people are gone"

    before = tree(tmp_path / "out")
    code, out, _ = rid(*command, *given)
    assert code == 0 and "was trained already" in out
    assert tree(tmp_path / "out") == before

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(photo_bytes(9, "PNG"))
    # Four steps may change too little to be called protected.
    code, out, err = rid("protect", "photos", "protected", "--defender", "out/defender", "--workers", "0")
    assert code in (0, 3) and "1 photos" in out and config["digest"][:12] in out, (
        err
    )  # four steps may change too little


def test_a_stopped_training_goes_on_and_refuses_other_photos_and_other_models(
    rid: Any, command: list[str], models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(rid, command, monkeypatch)
    run = tmp_path / "out" / "run" / "training" / "defender"
    assert (run / "state.pt").is_file()
    kept = tree(tmp_path / "out")

    write_people(tmp_path / "people.parquet", first=10)
    code, _, err = rid(*command)
    assert code == 5 and "holds another training (photos was" in err and "give another folder" in err
    write_people(tmp_path / "people.parquet")

    shutil.rmtree(tmp_path / "model")
    shutil.copytree(models[1], tmp_path / "model")
    code, _, err = rid(*command)
    assert code == 5 and "models was ['model with digest" in err and "perturbations was" in err
    code, _, err = rid(*command, "--set", "learning_rate=0.01")
    assert code == 5 and "learning_rate was 0.001 and is 0.01" in err
    assert tree(tmp_path / "out" / "run" / "training") == {
        path.removeprefix("run/training/"): sha for path, sha in kept.items() if path.startswith("run/training/")
    }

    shutil.rmtree(tmp_path / "model")
    shutil.copytree(models[0], tmp_path / "model")
    assert rid(*command)[0] == 0
    assert [record["step"] for record in read_log(run / "log.jsonl")] == [0, 3]
    straight = [str(tmp_path / "straight") if word == str(tmp_path / "out") else word for word in command]
    assert rid(*straight)[0] == 0
    digests = {config_of(tmp_path / name / "defender")["digest"] for name in ("out", "straight")}
    assert len(digests) == 1, "a stopped training ends as one that was not"


def test_a_training_reads_the_squares_that_serving_sees(
    rid: Any, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(rid, command, monkeypatch)
    home = Storage(str(tmp_path / "out" / "run"))
    held = json.loads(home.read_bytes("training/defender/photos.json"))
    squares = PhotoCache(home, 32).open([name for names in held["drops"].values() for name in names], tmp_path)[:]
    for seed, square in enumerate(squares):
        small = shrink(decode(photo_bytes(seed), READ_ALL).pixels, 32)  # 80 x 72 px, so that the sides are cut
        left = (small.shape[1] - 32) // 2
        assert np.array_equal(square, small[:, left : left + 32])


def test_people_are_told_apart_by_a_column(rid: Any, command: list[str], tmp_path: Path) -> None:
    surrogate = ["--teacher", "fsmg", "--teacher-option", "training_steps=1", "--teacher-option", "learning_rate=1e-3"]
    code, _, err = rid(*command, *surrogate)
    assert code == 5 and "--person-column" in err
    code, _, err = rid(*command, *surrogate, "--person-column", "name")
    assert code == 5 and "no column 'name': they have who" in err
    code, _, err = rid(*command, *surrogate, "--person-column", "who")
    assert code == 0, err
    (cache,) = (tmp_path / "out" / "run" / "perturbations").iterdir()
    shapes = [np.load(file).shape for file in (cache / "perturbations").iterdir()]
    assert shapes == [(2, 32, 32, 3)] * 2


def test_a_regression_alone_and_a_share_of_nothing(rid: Any, command: list[str], tmp_path: Path) -> None:
    code, _, err = rid(*command, "--set", "adv_sds_weight=0", "--teacher-share", "0")
    assert code == 5 and "needs teacher perturbations" in err
    code, _, err = rid(*command, "--set", "regression_weight=0", "--out", str(tmp_path / "plain"))
    assert code == 0, err
    assert "teacher" not in config_of(tmp_path / "plain" / "defender")["training"]
    assert not (tmp_path / "plain" / "run" / "perturbations").exists()


def test_a_recipe_of_latent_spaces_needs_no_diffusion_model(rid: Any, tmp_path: Path) -> None:
    photos = write_people(tmp_path / "people.parquet")
    spaces = [word for folder in save_spaces(tmp_path / "spaces") for word in ("--spaces", str(folder))]
    fields = ["steps=2", "batch=2", "view_side=32", "window_min=48"]
    common = ["train", "--recipe", "any_size", "--photos", str(photos), "--out", "out", *QUICK]
    common += [word for field in fields for word in ("--set", field)]
    code, _, err = rid(*common)
    assert code == 5 and "a latent space is needed: --spaces" in err
    code, out, err = rid(*common, *spaces)
    assert code == 0, err
    config = config_of(tmp_path / "out" / "defender")
    assert config["training"]["spaces"] == ["space-0", "space-1"] and config["training"]["models"] == []
    assert "Trained against space-0, space-1 with the recipe any_size" in config["description"]
    assert config["architecture"]["class"] == "ConvolutionalDefender" and "0 of them with a perturbation" in out
    code, _, err = rid(*common, *spaces, "--photo-side", "64")
    assert code == 5 and "squares of 64 px are smaller than the 128 px at which conv-56 works" in err
    code, _, err = rid(*common, *spaces[:2])
    assert code == 5 and "spaces was ['space-0 with digest" in err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--recipe", "magic"], "recipe 'magic' is unknown: choose one of"),
        (["--set", "steps"], "--set 'steps' is not FIELD=JSON"),
        (["--set", "colour=1"], "has no field colour"),
        (["--photos", "nowhere.parquet"], "nowhere.parquet"),
        (["--teacher", "magic"], "teacher 'magic' is unknown: choose one of"),
        (["--teacher-option", "target=1"], "has no option 'target'"),
        (["--model-resolution", "large"], "--model-resolution 'large' is no number of pixels"),
        (["--model-dtype", "other=float16"], "--model-dtype names 'other', which is not among --models"),
        (["--model-dtype", "float8"], "dtype 'float8'"),
        (["--init", "nobody"], "there is no defender 'nobody'"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
def test_a_wrong_request_gives_one_sentence(rid: Any, command: list[str], changes: list[str], sentence: str) -> None:
    code, out, err = rid(*command, *changes)
    assert code == 5 and sentence in err and err.count("\n") == 1 and out == ""


def test_without_a_model_the_sentence_says_what_is_needed(rid: Any, tmp_path: Path) -> None:
    photos = write_people(tmp_path / "people.parquet")
    code, _, err = rid("train", "--photos", str(photos), "--out", "out", "--workers", "0")
    assert code == 5 and "a frozen diffusion model is needed: --models" in err


def test_what_is_said_of_one_model_counts_after_what_is_said_of_all() -> None:
    models = ("owner/a", "b")
    assert per_model("--x", ["512", "owner/a=768"], models) == [("owner/a", "512"), ("b", "512"), ("owner/a", "768")]

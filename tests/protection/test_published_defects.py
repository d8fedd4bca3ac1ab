"""Mistakes of the published RID pipeline, shown not to happen here: wrong checkpoints, odd folders, lost steps.

Keys of wrong checkpoints are named in test_published and test_checkpoint, crops beside photos in test_batches.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_prediction import FixedPrediction
from small_catalogs import photo_bytes, tree
from tiny_defender import build_model, write_tiny_defender
from training_runs import CONFIG, SIDE, make_batch, random_model, small_photo_set, train_small

from rid.assets.catalog.plan import SHARD_PHOTOS
from rid.models.photo_files.images import decode
from rid.models.policy import READ_ALL
from rid.training.adv_sds import adv_sds_loss
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.methods import precompute_perturbations
from rid.training.trainer import train_defender
from rid.training.training_state import STATE_FILE


def write_pngs(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:03d}.png").write_bytes(photo_bytes(i, "PNG", side=64))


def images_under(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*.png"))


# Defect 3: a wrong checkpoint loads with strict=False and silently writes unprotected images.


def test_weights_of_another_defender_protect_nothing(rid: Any, tmp_path: Path) -> None:
    write_pngs(tmp_path / "photos", 2)
    (tmp_path / "defender" / "model.onnx").write_bytes(build_model(seed=9))
    code, _, err = rid("protect", "photos", "out", "--defender", "defender", "--workers", "0")
    assert code != 0 and "model.onnx" in err and "is not the file" in err
    assert images_under(tmp_path / "out") == []


def test_a_defender_that_changes_nothing_is_an_error_not_a_copy(rid: Any, tmp_path: Path) -> None:
    write_pngs(tmp_path / "photos", 2)
    write_tiny_defender(tmp_path / "dead", strength=0)
    code, _, err = rid("protect", "photos", "out", "--defender", "dead", "--workers", "0")
    assert code != 0 and "choose another defender" in err
    assert images_under(tmp_path / "out") == []


def test_a_defender_whose_weights_and_description_were_both_swapped_is_refused(rid: Any, tmp_path: Path) -> None:
    write_pngs(tmp_path / "photos", 1)
    weights = tmp_path / "defender" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    config = json.loads((tmp_path / "defender" / "config.json").read_text())
    config["files"]["weights.safetensors"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / "defender" / "config.json").write_text(json.dumps(config))
    code, _, err = rid("protect", "photos", "out", "--defender", "defender", "--workers", "0")
    assert code == 5 and "digest does not match" in err
    assert not (tmp_path / "out").exists()


# Defect 6: a folder smaller than the batch hangs the pair script for ever; the tail of a folder is never protected.


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_teacher_perturbs_every_photo_of_a_small_set_and_of_a_tail(count: int) -> None:
    pixels = small_photo_set(count=count, pairs=0, side=SIDE).pixels
    config = TeacherConfig(method="advdm", budget_levels=4, steps=2, batch=4)
    made = precompute_perturbations(pixels, [random_model()], config)
    assert made.shape == pixels.shape
    assert all(np.abs(perturbation).max() == 2 for perturbation in made)


def test_training_on_fewer_photos_than_a_batch_ends(tmp_path: Path) -> None:
    steps: list[int] = []
    photos, config = small_photo_set(count=1, pairs=1), replace(CONFIG, steps=2, batch=4, pair_batch=3)
    train_defender(config, photos, [random_model()], tmp_path, on_step=lambda record: steps.append(record["step"]))
    assert steps == [0, 1]


@pytest.mark.parametrize("count", [1, SHARD_PHOTOS + 1])
def test_every_photo_of_a_folder_is_protected(rid: Any, tmp_path: Path, count: int) -> None:
    write_pngs(tmp_path / "photos", count)
    code, out, _ = rid("protect", "photos", "out", "--defender", "defender", "--workers", "0")
    assert code == 0 and f"{count} photos: {count} protected" in out
    before, after = tree(tmp_path / "photos"), tree(tmp_path / "out", without=("_rid",))
    assert before.keys() == after.keys() and len(before) == count
    for name in before:
        clean, protected = (
            decode((tmp_path / place / name).read_bytes(), READ_ALL).pixels.astype(int) for place in ("photos", "out")
        )
        assert 0 < np.abs(protected - clean).max() <= 6, name


# Defect 7: pair crops from the wrong tensor; the last step never saved; exactly three models; v-prediction as epsilon.


def test_a_pairs_perturbation_is_cut_where_its_photo_is() -> None:
    """The perturbations here follow from the photos, so a crop or a flip of one alone would show."""
    photos = small_photo_set(count=6, pairs=6, side=SIDE + 8)
    for step in range(10):
        batch = make_batch(photos, replace(CONFIG, pair_batch=6), step)
        expected = (8 * batch.pair_image).round()  # the rule of `small_photo_set`, at its budget of 8 levels
        assert torch.equal((batch.pair_perturbation * 127.5).round(), expected)
        assert expected.abs().max() > 4


def test_a_teachers_last_step_is_in_its_perturbations() -> None:
    pixels = small_photo_set(count=2, pairs=0, side=SIDE).pixels
    for steps in (1, 2, 3):
        config = TeacherConfig(method="advdm", budget_levels=8, steps=steps, step_levels=1.0, momentum=0.0)
        made = precompute_perturbations(pixels, [random_model()], config)
        assert np.abs(made).max() == steps
        moved = np.abs(made) % 2 == steps % 2  # that many steps of one level each, but for pixels at 0 or 255
        assert moved.mean() > 0.9


def test_a_trainings_last_step_is_saved_and_returned(tmp_path: Path) -> None:
    trained = train_small(tmp_path, steps=4, checkpoint_every=3)
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert saved["step"] == 4
    assert all(torch.equal(saved["average"][name], value) for name, value in trained.state_dict().items())

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "stopped", steps=4, checkpoint_every=3, on_step=stop)
    earlier = torch.load(tmp_path / "stopped" / STATE_FILE, weights_only=True)
    assert earlier["step"] == 3
    assert not torch.equal(earlier["average"]["linear.weight"], saved["average"]["linear.weight"])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_models_is_an_ensemble(tmp_path: Path, count: int) -> None:
    models = [random_model(("epsilon", "v_prediction")[i % 2], seed=i) for i in range(count)]
    records: list[dict[str, Any]] = []
    train_small(tmp_path, models=models, steps=1, on_step=records.append)
    assert records[0]["adv_sds"] > 0


def test_a_velocity_is_not_taken_for_noise() -> None:
    """A model that predicts the velocity perfectly predicts the noise perfectly: no loss, and no gradient."""
    model = random_model("v_prediction")
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 4, 4, requires_grad=True), torch.randn(2, 4, 4, 4)
    timesteps = torch.tensor([200, 700])
    abar = model.schedule.at(timesteps).float()
    velocity = (abar.sqrt() * noise - (1 - abar).sqrt() * latents).detach()
    perfect = replace(model, unet=FixedPrediction(velocity))
    loss = adv_sds_loss(perfect, latents, timesteps, noise)
    (gradient,) = torch.autograd.grad(loss, latents)
    assert loss < 1e-10 and gradient.abs().max() < 1e-6
    wrong = replace(perfect, schedule=replace(model.schedule, prediction_type="epsilon"))
    assert adv_sds_loss(wrong, latents, timesteps, noise) > 0.01

"""The trainings of the embedded model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from quick_pipelines import photo_crops
from small_catalogs import photo_bytes

from rid.models.frozen_diffusion import load_frozen_diffusion
from rid.models.upright_photos import centre_square, upright_rgb
from rid.resources.schemas import IMAGE
from rid.training.embedded.architecture import SIZES, build_autoencoder
from rid.training.embedded.faces import load_faces
from rid.training.embedded.train_autoencoder import held_out_psnr, train_autoencoder


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_decoder_is_trained_alone_and_latents_stay(precision: str) -> None:
    torch.manual_seed(0)
    vae, pixels = build_autoencoder(SIZES["tiny-64"]), photo_crops(16)
    before = {name: weights.clone() for name, weights in vae.state_dict().items()}
    factor, psnr = vae.config.scaling_factor, held_out_psnr(vae, pixels)
    settings = {"steps": 30, "batch": 4, "learning_rate": 3e-3, "seed": 0, "on_step": lambda record: None}
    train_autoencoder(vae, pixels, precision=precision, decoder_only=True, **settings)
    changed = {name for name, weights in vae.state_dict().items() if not torch.equal(weights, before[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert vae.config.scaling_factor == factor
    assert held_out_psnr(vae, pixels) > psnr + 1


def write_faces(file: Path, count: int = 6) -> Path:
    """Captioned photos, one of which cannot be decoded."""
    images = [{"bytes": photo_bytes(seed), "path": None} for seed in range(count)]
    images[1]["bytes"] = images[1]["bytes"][:300]
    columns = {"image": pa.array(images, IMAGE), "age": [30] * count, "gender": ["woman"] * count}
    pq.write_table(pa.table(columns), file)
    return file


def test_the_command_trains_a_pipeline_that_loads(rid: Any, tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces.parquet")
    common = ["--photos", str(faces), "--size", "tiny-64", "--batch", "2", "--threads", "1"]
    code, out, err = rid("train-embedded", "autoencoder", *common, "--steps", "2", "--out", "a")
    assert code == 0 and "folder a/vae" in out, err
    assert json.loads((tmp_path / "a" / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
    given = ["--vae", "a/vae", "--steps", "2", "--prediction-type", "v_prediction", "--out", "b"]
    code, _, err = rid("train-embedded", "denoiser", *common, *given)
    assert code == 0, err
    assert load_frozen_diffusion(str(tmp_path / "b")).schedule.prediction_type == "v_prediction"
    again = ["--vae", "a/vae", "--steps", "1", "--init", "b", "--text-from", "b", "--out", "c"]
    code, _, err = rid("train-embedded", "denoiser", *common, *again)
    assert code == 0, err
    one, other = (load_frozen_diffusion(str(tmp_path / name)) for name in "bc")
    assert one.text_digest == other.text_digest, "the text encoder was taken as it is"


def test_squares_of_faces_are_those_that_serving_sees(tmp_path: Path) -> None:
    faces = load_faces([write_faces(tmp_path / "faces.parquet", 3)], 32)
    assert faces.captions == ["photo of a 30 year old woman"] * 2  # the broken one is left out with its caption
    for square, seed in zip(faces.pixels, (0, 2), strict=True):
        upright = upright_rgb(photo_bytes(seed))
        assert upright is not None and np.array_equal(square, centre_square(upright, 32))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["autoencoder", "--decoder-only"], "give it with --init"),
        (["autoencoder", "--size", "huge"], "size 'huge' is unknown: choose one of faces-128"),
        (["autoencoder", "--precision", "int4"], "--precision 'int4' is unknown"),
        (["autoencoder", "--init", "nowhere"], "--init nowhere is no folder"),
        (["autoencoder", "--photos", "none.parquet"], "there is no file none.parquet"),
        (["denoiser", "--vae", "nowhere"], "--vae nowhere is no folder"),
        (["denoiser", "--vae", "."], ". does not hold the saved model that is needed"),
        (["denoiser", "--vae", ".", "--prediction-type", "sample"], "--prediction-type 'sample' is unknown"),
    ],
)
def test_a_wrong_request_gives_one_sentence(rid: Any, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    faces = write_faces(tmp_path / "faces.parquet", 4)
    code, out, err = rid("train-embedded", *arguments, "--photos", str(faces), "--out", "y")
    assert code == 5 and sentence in err and err.count("\n") == 1 and out == ""


def test_a_file_without_photos_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1]}), tmp_path / "labels.parquet")
    with pytest.raises(ValueError, match="has no column 'image': it has label"):
        load_faces([tmp_path / "labels.parquet"], 32)

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_defenders import photos, randomised
from safetensors.torch import load_file, save_file

from rid.models.checkpoint import BudgetRange, DefenderCard, load_defender, save_defender
from rid.models.defender import SIZES
from rid.training.exporting import add_onnx

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"
CARD = DefenderCard("test", "of a test", BudgetRange(1, 16, 6), "MIT", "a test")


@torch.no_grad()
def test_a_saved_defender_reads_back_exactly(tmp_path: Path) -> None:
    defender = randomised(SIZES["tiny-32"])
    digest = save_defender(tmp_path, defender, CARD)
    loaded, config = load_defender(tmp_path)
    assert config["digest"] == digest
    image, budget = photos(2, 32), torch.tensor([3.0, 5.0])
    assert torch.equal(loaded(image, budget), defender(image, budget))


def test_the_digest_depends_on_weights_and_on_nothing_else(tmp_path: Path) -> None:
    first = save_defender(tmp_path / "a", randomised(SIZES["tiny-32"], 0), CARD)
    again = save_defender(tmp_path / "b", randomised(SIZES["tiny-32"], 0), DefenderCard("x", "y", CARD.budget, "z", ""))
    other = save_defender(tmp_path / "c", randomised(SIZES["tiny-32"], 1), CARD)
    assert first == again != other


def test_a_changed_weights_file_is_refused(tmp_path: Path) -> None:
    save_defender(tmp_path, randomised(SIZES["tiny-32"]), CARD)
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing or is not the file"):
        load_defender(tmp_path)


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, change: str) -> None:
    """Defect 3 of the published pipeline: a wrong checkpoint must not load quietly."""
    from rid.models.checkpoint import defender_digest, file_sha256

    save_defender(tmp_path, randomised(SIZES["tiny-32"]), CARD)
    state = load_file(tmp_path / "weights.safetensors")
    if change == "missing":
        del state["blocks.1.gate1"]
    elif change == "extra":
        state["t_embedder.mlp.0.weight"] = torch.zeros(2)
    else:
        state["linear.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "weights.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["files"] = {"weights.safetensors": file_sha256(tmp_path / "weights.safetensors")}
    config["digest"] = defender_digest(config["architecture"], config["files"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    name = {
        "missing": "blocks.1.gate1 is missing",
        "extra": "t_embedder",
        "misshapen": r"linear\.bias has shape \(7,\)",
    }
    with pytest.raises(ValueError, match=name[change]):
        load_defender(tmp_path)


def test_a_folder_without_a_defender_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_defender(tmp_path)


def test_onnx_matches_torch_alone_and_in_a_batch(tmp_path: Path) -> None:
    import onnxruntime

    defender = randomised(SIZES["tiny-32"])
    digest = save_defender(tmp_path, defender, CARD)
    check = add_onnx(tmp_path)
    assert check.max_error < 1e-5
    _, config = load_defender(tmp_path)
    assert config["digest"] == digest
    assert set(config["files"]) == {"weights.safetensors", "model.onnx"}
    session = onnxruntime.InferenceSession((tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    image, budget = photos(3, 32), torch.tensor([1.0, 6.0, 16.0])
    (got,) = session.run(None, {"image": image.numpy(), "budget_levels": budget.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, defender(image, budget).numpy(), atol=1e-4)


def test_no_file_of_a_defender_tells_where_it_was_made(tmp_path: Path) -> None:
    """The exporter notes stack traces, with the folders of the machine, on every node."""
    save_defender(tmp_path, randomised(SIZES["tiny-32"]), CARD)
    add_onnx(tmp_path)
    here = str(Path(__file__).parents[2]).encode()
    for folder in (tmp_path, WEIGHTS / "default", WEIGHTS / "ablation" / "adv_sds_only"):
        for file in folder.iterdir():
            content = file.read_bytes()
            for trace in (here, str(tmp_path).encode(), b"site-packages", b"forward\n", b"File "):
                assert trace not in content, f"{file.name} names {trace!r}"

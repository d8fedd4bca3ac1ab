import contextlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from published_checkpoints import REFERENCE, Shape, State, random_checkpoint, unfolded_forward, write_checkpoint
from small_catalogs import photo_bytes, tree
from torch import Tensor

from rid.models.budget import BudgetRange
from rid.models.checkpoint import DefenderCard, load_defender, save_defender
from rid.models.engines import OnnxEngine
from rid.models.published import published_card, trained_budget
from rid.models.published import read_published as read_any

SMALL = Shape()
NAME = "ASDS-eps-12_255.bin"
BLOCKS = ("--blocks", str(SMALL.depth))
TOLERANCE = 1e-5  # of the budget
LOCKS = (".config.json.lock",)


def read_published(path: Path, **options: Any) -> Any:
    """Reads a small checkpoint of two blocks; only those of the published width know how many they have."""
    return read_any(path, **{"blocks": SMALL.depth} | options)


def images(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def error_of_budget(path: Path, state: State, shape: Shape, **options: Any) -> float:
    """Largest difference of the folded network from its definition, which must have something to say."""
    image = images(2, shape.side)
    defender = read_published(path, **options)
    expected = unfolded_forward(state, shape, image.double())
    assert expected.std() > 0.2
    budget = float(defender.budget.default)
    return float((defender(image, torch.full((2,), budget)) / budget - expected).abs().max())


@pytest.mark.parametrize(
    "shape",
    [SMALL, Shape(side=24, patch=4, width=48, depth=3), Shape(heads=2), Shape(patch=16, width=16, depth=1, heads=4)],
)
def test_the_folded_network_is_the_unfolded_one(tmp_path: Path, shape: Shape) -> None:
    state = write_checkpoint(tmp_path / NAME, shape)
    assert error_of_budget(tmp_path / NAME, state, shape, heads=shape.heads, blocks=shape.depth) <= TOLERANCE


def test_nothing_dead_is_kept(tmp_path: Path) -> None:
    """Time-step and label embedders and modulation weights change nothing, whatever is in them."""
    state = write_checkpoint(tmp_path / NAME)
    (tmp_path / "other").mkdir()
    dead = [name for name in state if "_embedder.mlp" in name or "table" in name or "adaLN_modulation.1.weight" in name]
    torch.save(state | {name: torch.full_like(state[name], 7.0) for name in dead}, tmp_path / "other" / NAME)
    first, other = read_published(tmp_path / NAME), read_published(tmp_path / "other" / NAME)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    kept = sum(parameter.numel() for parameter in first.parameters())
    modulation = sum(state[name].numel() for name in state if "adaLN_modulation.1.bias" in name)
    rest = sum(state[name].numel() for name in state if name not in dead and "adaLN" not in name)
    assert kept == rest + modulation - state["pos_embed"].numel()


def test_a_checkpoint_with_its_own_positions_keeps_them(tmp_path: Path) -> None:
    state = random_checkpoint(SMALL)
    state["pos_embed"] = torch.randn(state["pos_embed"].shape, generator=torch.Generator().manual_seed(3))
    torch.save(state, tmp_path / NAME)
    assert error_of_budget(tmp_path / NAME, state, SMALL) <= TOLERANCE
    defender = read_published(tmp_path / NAME)
    save_defender(tmp_path / "folder", defender, published_card(tmp_path / NAME, defender.budget))
    loaded, config = load_defender(tmp_path / "folder")
    assert torch.equal(loaded.positions, state["pos_embed"][0])
    assert config["architecture"]["stored_positions"] is True
    write_checkpoint(tmp_path / "usual" / NAME)
    assert "stored_positions" not in read_published(tmp_path / "usual" / NAME).size.to_json()


def test_a_half_precision_checkpoint_is_folded_in_single(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in random_checkpoint(SMALL).items()}
    torch.save(state, tmp_path / NAME)
    assert error_of_budget(tmp_path / NAME, state, SMALL) <= TOLERANCE


def misshapen(tensor: Tensor) -> list[Tensor]:
    """The same tensor in shapes that are wrong wherever it stands."""
    return [tensor[None], tensor[..., None], torch.cat([tensor, tensor], dim=-1)]


def test_every_missing_or_misshapen_key_is_named(tmp_path: Path) -> None:
    """Defect 3 of the published pipeline: a wrong checkpoint loads quietly, and photos are written unprotected."""
    state = random_checkpoint(SMALL)
    free = "t_embedder.mlp.0.weight"  # its last side is tied to nothing
    for name in state:
        changed = [{key: value for key, value in state.items() if key != name}]
        changed += [state | {name: tensor} for tensor in misshapen(state[name])[: 2 if name == free else 3]]
        for number, wrong in enumerate(changed):
            torch.save(wrong, tmp_path / NAME)
            with pytest.raises(ValueError, match=f"{NAME}.* {name} (is missing|has )") as caught:
                read_published(tmp_path / NAME)
            assert ("is missing" in str(caught.value)) == (number == 0), str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["extra", "blocks.2.attn.qkv.weight", "blocks.0.attn.q_norm.weight", "blocks.x.y"])
def test_every_extra_key_is_named(tmp_path: Path, name: str) -> None:
    torch.save(random_checkpoint(SMALL) | {name: torch.zeros(96, 32)}, tmp_path / NAME)
    with pytest.raises(ValueError, match=rf"{name} is not a tensor of this architecture$"):
        read_published(tmp_path / NAME)


class Attack:
    """A pickle that makes a folder when it is read without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["zip", "old torch", "plain pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    content = {**random_checkpoint(SMALL), "extra": Attack(tmp_path / "attacked")}
    if kind == "plain pickle":
        (tmp_path / NAME).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / NAME, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match="is not a published checkpoint: it is damaged or holds more") as caught:
        read_published(tmp_path / NAME)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists()
    with contextlib.suppress(RuntimeError):
        torch.load(tmp_path / NAME, weights_only=False)
    assert (tmp_path / "attacked").exists()  # the same file does harm where it is read without care


def not_checkpoints(state: State) -> dict[str, Any]:
    return {
        "empty": b"",
        "text": b"no checkpoint\n" * 20,
        "zip": b"PK\x05\x06" + bytes(18),
        "list": [state["pos_embed"]],
        "nothing": {},
        "numbers": {"x": 1},
        "training state": {"model": state, "step": 3},
        "whole numbers": state | {"pos_embed": state["pos_embed"].long()},
        "sparse": state | {"x_embedder.proj.bias": state["x_embedder.proj.bias"].to_sparse()},
        "no values": state | {"x_embedder.proj.bias": torch.zeros(0)},
        "no number": state | {"final_layer.linear.bias": torch.full((192,), torch.nan)},
        "no square": state | {"pos_embed": torch.zeros(1, 15, 32)},
        "odd hidden width": state | {"blocks.0.mlp.fc1.weight": torch.zeros(100, 32)},
    }


@pytest.mark.parametrize("kind", not_checkpoints(random_checkpoint(SMALL)))
def test_what_is_no_checkpoint_gives_one_sentence(tmp_path: Path, kind: str) -> None:
    content = not_checkpoints(random_checkpoint(SMALL))[kind]
    file = tmp_path / NAME
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(ValueError, match=NAME) as caught:
        read_published(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    for place in (tmp_path / NAME, tmp_path):
        with pytest.raises(ValueError, match="there is no file"):
            read_published(place)


def test_a_flipped_bit_anywhere_in_the_weights_is_refused(tmp_path: Path) -> None:
    """torch's reader takes it: it does not hold a member against its CRC."""
    write_checkpoint(tmp_path / NAME)
    data = (tmp_path / NAME).read_bytes()
    with zipfile.ZipFile(tmp_path / NAME) as archive:
        members = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size > 1000]
    for member in members[:: len(members) // 4]:
        damaged = bytearray(data)
        damaged[member.header_offset + member.file_size // 2 + 128] ^= 0x10
        (tmp_path / NAME).write_bytes(damaged)
        torch.load(tmp_path / NAME, weights_only=True)
        with pytest.raises(ValueError, match=r"is damaged \(its CRC differs\); fetch the file again") as caught:
            read_published(tmp_path / NAME)
        assert member.filename in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_that_lost_its_last_block_is_no_smaller_network(tmp_path: Path) -> None:
    state = random_checkpoint(SMALL)
    torch.save({name: tensor for name, tensor in state.items() if "blocks.1." not in name}, tmp_path / NAME)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.weight is missing \(and 9 more\)"):
        read_published(tmp_path / NAME)
    with pytest.raises(ValueError, match=r"a width of 32, and the number of its blocks is known .* state it with --bl"):
        read_any(tmp_path / NAME)
    published = {name: tensor.half() for name, tensor in random_checkpoint(Shape(width=1152, depth=1)).items()}
    torch.save(published, tmp_path / NAME)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.weight is missing \(and 129 more\)"):
        read_any(tmp_path / NAME)


@pytest.mark.parametrize("dead", ["", "final_layer.linear"])
def test_a_checkpoint_that_changes_nothing_is_refused(tmp_path: Path, dead: str) -> None:
    state = random_checkpoint(SMALL)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items() if name.startswith(dead)}
    torch.save(state | zeros | {"pos_embed": state["pos_embed"]}, tmp_path / NAME)
    with pytest.raises(ValueError, match="outputs zero everywhere: it changes no photo"):
        read_published(tmp_path / NAME)


def test_a_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / NAME)
    data = (tmp_path / NAME).read_bytes()
    for end in range(0, len(data), len(data) // 7):
        (tmp_path / NAME).write_bytes(data[:end])
        with pytest.raises(ValueError, match="is not a published checkpoint"):
            read_published(tmp_path / NAME)


def test_a_number_of_heads_that_cannot_be_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / NAME)
    with pytest.raises(ValueError, match="a width of 32, which 5 heads do not divide"):
        read_published(tmp_path / NAME, heads=5)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("ASDS-eps-6_255.bin", 3),
        ("ASDS-eps-8_255.bin", 4),
        ("ASDS-eps-12_255.bin", 6),
        ("ASDS-onlyreg-eps12_255.bin", 6),
        ("ASDS-onlysds-eps12_255.bin", 6),
        ("ASDS-eps-12_255 (1).bin", 6),
    ],
)
def test_the_name_says_the_budget_in_the_papers_units(name: str, levels: int) -> None:
    budget = trained_budget(name, None)
    assert (budget.min, budget.default, budget.max) == (levels, levels, levels)
    assert trained_budget(name, levels) == budget
    with pytest.raises(ValueError, match=f"at {levels} levels by its name, not at {levels + 1}"):
        trained_budget(name, levels + 1)


def test_a_budget_that_no_name_says_must_be_stated() -> None:
    with pytest.raises(ValueError, match=r"the name of weights\.bin does not say the budget"):
        trained_budget("weights.bin", None)
    assert trained_budget("weights.bin", 5).max == 5
    for stated in (0, 17):
        with pytest.raises(ValueError, match=f"budget {stated} is not allowed"):
            trained_budget("weights.bin", stated)
    with pytest.raises(ValueError, match=r"at 2\.5 levels: only whole levels"):
        trained_budget("ASDS-eps-5_255.bin", None)
    with pytest.raises(ValueError, match="budget 17 is not allowed"):
        trained_budget("ASDS-eps-34_255.bin", None)


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("weights.bin", ""),
        (NAME, "Adv-SDS and regression"),
        ("ASDS-onlyreg-eps12_255.bin", "regression to teacher perturbations alone"),
        ("ASDS-onlysds-eps12_255.bin", "Adv-SDS alone"),
    ],
)
def test_the_card_says_where_the_weights_come_from(tmp_path: Path, name: str, losses: str) -> None:
    write_checkpoint(tmp_path / name)
    card: DefenderCard = published_card(tmp_path / name, BudgetRange(6, 6, 6))
    assert card.name == name.removesuffix(".bin")
    assert name in card.origin and len(card.training["checkpoint_sha256"]) == 64
    assert card.training["losses"] == (losses or "not stated")
    assert (f"trained with {losses};" in card.description) == bool(losses)
    assert str(tmp_path) not in json.dumps(card.training) + card.origin + card.description


def protect_two_photos(rid: Any, folder: Path, defender: str, *more: str) -> tuple[int, str, str]:
    (folder / "photos").mkdir(exist_ok=True)
    (folder / "photos" / "a.png").write_bytes(photo_bytes(1, "PNG", side=100))
    (folder / "photos" / "b.png").write_bytes(photo_bytes(2, "PNG", side=64))
    return rid("protect", "photos", "out", "--defender", defender, "--workers", "0", *more)


def test_import_then_protect_then_export(rid: Any, tmp_path: Path) -> None:
    shape = Shape(side=64)
    state = write_checkpoint(tmp_path / NAME, shape)
    code, out, err = rid("defenders", "import", NAME, *BLOCKS, "--json")
    assert (code, err) == (0, "")
    imported = json.loads(out)
    digest, config = imported["digest"], imported["config"]
    assert config["budget"] == {"min": 6, "max": 6, "default": 6}
    assert config["name"] == "ASDS-eps-12_255" and NAME in config["origin"]
    assert set(config["files"]) == {"weights.safetensors", "model.onnx"}

    code, out, err = protect_two_photos(rid, tmp_path, digest[:12])
    assert (code, err) == (0, ""), err
    assert "2 photos: 2 protected" in out and "6 of 255 levels" in out
    before, after = (cv2.imread(str(tmp_path / place / "a.png")).astype(int) for place in ("photos", "out"))
    assert 3 < np.abs(after - before).max() <= 6
    image = images(1, 64)
    expected = 6 * unfolded_forward(state, shape, image.double()).numpy()
    engine = OnnxEngine((tmp_path / "rid-home" / "defenders" / digest / "model.onnx").read_bytes())
    assert np.abs(engine.perturb(image.numpy(), 6.0) - expected).max() <= 1e-4 * 6

    code, _, err = protect_two_photos(rid, tmp_path, digest[:12], "--budget", "8")
    assert code == 5 and "was trained for a fixed budget of 6 of 255 levels, not 8" in err
    assert rid("verify", "out", "--source", "photos")[0] == 0
    assert "a fixed budget of 6 of 255 levels" in rid("defenders", "list")[1]

    before_again = tree(tmp_path / "rid-home" / "defenders")
    assert rid("defenders", "import", NAME, *BLOCKS)[1].startswith(digest)
    assert tree(tmp_path / "rid-home" / "defenders") == before_again

    code, out, _ = rid("defenders", "export", digest[:8], "folder")
    assert code == 0 and "folder" in out
    assert tree("folder") == tree(tmp_path / "rid-home" / "defenders" / digest, without=LOCKS)
    with torch.no_grad():
        levels = load_defender(tmp_path / "folder")[0](image, torch.tensor([6.0]))
    assert np.abs(levels.numpy() - expected).max() <= TOLERANCE * 6
    assert protect_two_photos(rid, tmp_path, "folder")[0] == 0
    code, _, err = rid("defenders", "export", digest[:8], "folder")
    assert code == 5 and "is not empty" in err


def test_a_wrong_file_registers_nothing(rid: Any, tmp_path: Path) -> None:
    state = write_checkpoint(tmp_path / NAME)
    del state["blocks.1.mlp.fc2.bias"]
    torch.save(state, tmp_path / NAME)
    code, out, err = rid("defenders", "import", NAME, *BLOCKS)
    assert (code, out) == (5, "") and err.startswith("rid: ") and err.count("\n") == 1
    assert "blocks.1.mlp.fc2.bias is missing" in err
    assert not (tmp_path / "rid-home").exists()
    write_checkpoint(tmp_path / "weights.bin")
    code, _, err = rid("defenders", "import", "weights.bin")
    assert code == 5 and "does not say the budget" in err


@pytest.mark.slow
def test_a_name_a_budget_and_heads_can_be_stated(rid: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "weights.bin", Shape(heads=2))
    code, out, _ = rid("defenders", "import", "weights.bin", "--budget", "4", "--heads", "2", *BLOCKS, "--name", "mine")
    assert code == 0 and "mine" in out
    entry = next(e for e in json.loads(rid("defenders", "list", "--json")[1]) if e["name"] == "mine")
    assert out.startswith(entry["digest"])
    assert entry["budget"] == {"min": 4, "max": 4, "default": 4}
    assert entry["architecture"]["heads"] == 2


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_without_torch_importing_is_one_sentence(rid: Any, tmp_path: Path, package: str, monkeypatch: Any) -> None:
    write_checkpoint(tmp_path / NAME)
    monkeypatch.setitem(sys.modules, package, None)  # what Python's own import does with a package that is not there
    code, out, err = rid("defenders", "import", NAME, *BLOCKS)
    assert (code, out) == (5, "") and err.count("\n") == 1
    assert f"needs {package}, which this machine lacks: install the extra `train`" in err


def test_exporting_needs_no_torch_and_checks_what_it_copies(rid: Any, tmp_path: Path) -> None:
    assert rid("defenders", "promote", "defender", "--although-it-fails")[0] == 0
    registered = tmp_path / "rid-home" / "defenders" / rid.digest
    assert rid("defenders", "export", "default")[0] == 0
    assert tree(tmp_path / f"defender-{rid.digest[:12]}") == tree(registered, without=LOCKS)
    (registered / "model.onnx").write_bytes(b"another")
    code, _, err = rid("defenders", "export", "default", "again")
    assert code == 5 and "model.onnx of defender" in err
    assert not (tmp_path / "again" / "config.json").exists()  # a half-written folder is no defender
    assert rid("defenders", "export", "nobody")[0] == 5


@pytest.mark.slow
def test_the_reference_size_is_imported_within_6_gb(tmp_path: Path) -> None:
    state = write_checkpoint(tmp_path / NAME, REFERENCE)
    assert sum(tensor.numel() for tensor in state.values()) > 340e6
    del state
    script = (
        "import resource, sys; from rid.dagster_project.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "defenders", "import", "--json", NAME],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        capture_output=True,
        text=True,
    )
    imported, peak = done.stdout.splitlines()
    assert int(peak) < 6e9
    config = json.loads(imported)["config"]
    assert config["architecture"] | {"class": ""} == {
        "class": "",
        "working_resolution": 512,
        "patch": 16,
        "width": 1152,
        "depth": 14,
        "heads": 8,
        "mlp_ratio": 4,
    }
    defender, _ = load_defender(tmp_path / "rid-home" / "defenders" / config["digest"])
    assert 224e6 < sum(parameter.numel() for parameter in defender.parameters()) < 226e6
    image = images(1, 512)
    with torch.no_grad():
        got = defender(image, torch.tensor([6.0])) / 6
        state = torch.load(tmp_path / NAME, weights_only=True, mmap=True)
        expected = unfolded_forward(state, REFERENCE, image)
    assert expected.std() > 0.2
    assert (got - expected).abs().max() <= TOLERANCE

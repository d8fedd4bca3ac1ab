import hashlib
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_defender import write_tiny_defender

from rid.models.checkpoint import defender_digest
from rid.resources.defender_files import DefenderCorrupt, read_config
from rid.resources.defender_registry import DefenderRegistry, UnknownDefender, cache_folder, fetch_defender
from rid.resources.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A defender's folder."""
    write_tiny_defender(tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def registry(place: str, tmp_path: Path) -> DefenderRegistry:
    """A registry, once on disk and once on S3, beside one shipped defender called `default`."""
    write_tiny_defender(tmp_path / "shipped" / "default", seed=7)
    return DefenderRegistry(Storage(place), tmp_path / "shipped")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_registered_defender_is_found_by_every_name(registry: DefenderRegistry, folder: Path) -> None:
    digest = registry.register(folder)
    assert registry.register(folder) == digest
    registry.promote(digest, "portraits")
    for name in (digest, digest[:6], "portraits"):
        assert registry.resolve(name).digest == digest
    assert registry.resolve(str(folder)).location == str(folder)
    entry = registry.resolve("portraits")
    assert entry.location == registry.storage.uri(digest)
    assert entry.aliases == ("portraits",)
    assert {entry.digest for entry in registry.entries()} == {digest, registry.resolve("default").digest}


def test_the_shipped_default_gives_way_to_a_promoted_one(registry: DefenderRegistry, folder: Path) -> None:
    shipped = registry.resolve("default").digest
    digest = registry.register(folder)
    assert registry.resolve("default").digest == shipped
    registry.promote(digest)
    assert registry.resolve("default").digest == digest
    registry.promote(shipped[:8])
    assert registry.resolve("default").digest == shipped


def test_promoting_a_folder_registers_it(registry: DefenderRegistry, folder: Path) -> None:
    entry = registry.promote(str(folder), "mine")
    assert entry.location.startswith(registry.storage.url)


def test_unknown_names_list_what_exists(registry: DefenderRegistry) -> None:
    with pytest.raises(
        UnknownDefender, match=r"there is no defender 'nobody'; registered are: default \([0-9a-f]{12}\)"
    ):
        registry.resolve("nobody")
    with pytest.raises(UnknownDefender):
        registry.resolve(registry.resolve("default").digest[:5])  # too short to be a digest


def test_an_ambiguous_prefix_is_refused(registry: DefenderRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.resolve("default")
    alike = [type(entry)(f"abcdef{i}" + "0" * 57, entry.config, entry.location) for i in range(2)]
    monkeypatch.setattr(DefenderRegistry, "entries", lambda self: alike)
    with pytest.raises(UnknownDefender, match="'abcdef' begins 2 digests: give more digits"):
        registry.resolve("abcdef")
    assert registry.resolve("abcdef1").digest == alike[1].digest


@pytest.mark.parametrize("alias", ["", "a b", "../x", "abcdef", "-x", "x" * 65])
def test_odd_aliases_are_refused(registry: DefenderRegistry, alias: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        registry.promote("default", alias)


def test_an_alias_of_nothing_is_told(registry: DefenderRegistry) -> None:
    registry.storage.write_bytes("aliases.json", json.dumps({"lost": "0" * 64}).encode())
    with pytest.raises(UnknownDefender, match="alias 'lost' points to defender 000000000000, which is gone"):
        registry.resolve("lost")


def test_a_defender_without_its_config_does_not_exist_yet(registry: DefenderRegistry, folder: Path) -> None:
    digest = json.loads((folder / "config.json").read_text())["digest"]
    registry.storage.child(digest).write_file("model.onnx", folder / "model.onnx")
    with pytest.raises(UnknownDefender):
        registry.resolve(digest)
    registry.register(folder)
    assert registry.resolve(digest).onnx_file == "model.onnx"


def test_an_onnx_file_may_follow_later(registry: DefenderRegistry, folder: Path) -> None:
    complete = json.loads((folder / "config.json").read_text())
    weights = {name: sha for name, sha in complete["files"].items() if name.startswith("weights")}
    change_config(folder, files=weights)
    digest = registry.register(folder)
    with pytest.raises(DefenderCorrupt, match="has no ONNX file"):
        _ = registry.resolve(digest).onnx_file
    change_config(folder, files=complete["files"], onnx={"max_error_of_budget": 0.0})
    registry.register(folder)
    change_config(folder, files=weights)
    registry.register(folder)  # again without: what is there is kept
    entry = registry.resolve(digest)
    assert entry.onnx_file == "model.onnx" and set(entry.config["files"]) == set(complete["files"])
    assert set(fetch_defender(entry.location, digest, entry.config["files"])) == set(complete["files"])


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors"])
def test_a_changed_file_is_not_registered(registry: DefenderRegistry, folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"!")
    with pytest.raises(DefenderCorrupt, match=f"{name} is missing or is not the file"):
        registry.register(folder)
    (folder / name).unlink()
    with pytest.raises(DefenderCorrupt, match=f"{name} is missing or is not the file"):
        registry.register(folder)
    assert not list(registry.storage.list_files())


def test_registering_again_repairs_a_damaged_file(registry: DefenderRegistry, folder: Path) -> None:
    digest = registry.register(folder)
    registry.storage.child(digest).write_bytes("model.onnx", b"\0" * (folder / "model.onnx").stat().st_size)
    registry.register(folder)
    entry = registry.resolve(digest)
    data = fetch_defender(entry.location, digest, entry.config["files"])["model.onnx"]
    assert data == (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"{}",
        b'{"digest": "0", "architecture": {}, "files": 3}',
        b'{"digest": "0", "architecture": {}, "files": {"../../x.onnx": "0"}}',
        b'{"digest": "0", "architecture": {}, "files": {"weights.bin": "0"}}',
        b'{"digest": "0", "architecture": {}, "files": {}}',
    ],
)
def test_a_broken_config_is_named(config: bytes, folder: Path, registry: DefenderRegistry) -> None:
    with pytest.raises(DefenderCorrupt, match=r"^here"):
        read_config(config, "here")
    (folder / "config.json").write_bytes(config)
    with pytest.raises(DefenderCorrupt, match=r"config\.json"):
        registry.register(folder)


def test_swapped_weights_have_another_digest(registry: DefenderRegistry, folder: Path) -> None:
    """Even where config.json was changed along with them."""
    data = (folder / "weights.safetensors").read_bytes() + b" "
    (folder / "weights.safetensors").write_bytes(data)
    files = json.loads((folder / "config.json").read_text())["files"]
    change_config(folder, files=files | {"weights.safetensors": hashlib.sha256(data).hexdigest()})
    for use in (registry.register, lambda folder: registry.resolve(str(folder))):
        with pytest.raises(DefenderCorrupt, match="digest does not match"):
            use(folder)


def test_a_fetched_file_is_checked(registry: DefenderRegistry, folder: Path) -> None:
    digest = registry.register(folder)
    entry = registry.resolve(digest)
    sha = entry.config["files"]["model.onnx"]
    stored = registry.storage.child(digest)
    stored.write_bytes("model.onnx", b"swapped")
    with pytest.raises(DefenderCorrupt, match=r"model\.onnx of defender [0-9a-f]{12} at .* is not the file"):
        fetch_defender(entry.location, digest, {"model.onnx": sha})
    stored.delete("model.onnx")
    with pytest.raises(DefenderCorrupt, match="is missing at"):
        fetch_defender(entry.location, digest, {"model.onnx": sha})


def test_a_damaged_cache_is_filled_again(s3_url: str, folder: Path, tmp_path: Path) -> None:
    registry = DefenderRegistry(Storage(s3_url), tmp_path / "none")
    entry = registry.resolve(registry.register(folder))
    wanted = {"model.onnx": entry.config["files"]["model.onnx"]}
    data = fetch_defender(entry.location, entry.digest, wanted)["model.onnx"]
    (cached,) = [file for file in cache_folder().rglob("*") if file.is_file()]
    cached.write_bytes(b"torn")
    assert fetch_defender(entry.location, entry.digest, wanted)["model.onnx"] == data
    assert cached.read_bytes() == data
    registry.storage.child(entry.digest).delete("model.onnx")
    assert fetch_defender(entry.location, entry.digest, wanted)["model.onnx"] == data  # from the cache


def test_a_budget_outside_of_training_is_refused(registry: DefenderRegistry) -> None:
    entry = registry.resolve("default")
    span = entry.config["budget"]
    assert entry.budget(None) == span["default"] and entry.budget(span["max"]) == span["max"]
    with pytest.raises(ValueError, match="was trained for budgets of"):
        entry.budget(span["max"] + 1)


def promote(place: str, shipped: Path, digest: str, alias: str) -> None:
    DefenderRegistry(Storage(place), shipped).promote(digest, alias)


def test_aliases_set_at_the_same_time_all_stay(place: str, folder: Path, tmp_path: Path) -> None:
    registry = DefenderRegistry(Storage(place), tmp_path / "none")
    digest = registry.register(folder)
    context = multiprocessing.get_context("fork")
    names = ["one", "two", "three"]
    processes = [context.Process(target=promote, args=(place, tmp_path / "none", digest, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert registry.aliases() == dict.fromkeys(names, digest)


def test_a_defender_travels_to_workers(registry: DefenderRegistry, folder: Path, dask_client: Any) -> None:
    entry = registry.resolve(registry.register(folder))
    files = entry.config["files"]
    tasks = [dask_client.submit(fetch_defender, entry.location, entry.digest, files, pure=False) for _ in range(4)]
    expected = {name: (folder / name).read_bytes() for name in files}
    assert all(found == expected for found in dask_client.gather(tasks))


def test_the_config_of_a_registered_defender_is_written_once(registry: DefenderRegistry, folder: Path) -> None:
    digest = registry.register(folder)
    before = {entry.path: entry.identity for entry in registry.storage.list_files()}
    registry.register(folder)
    assert {entry.path: entry.identity for entry in registry.storage.list_files()} == before
    assert isinstance(registry.storage, Storage) and f"{digest}/config.json" in before


def test_equal_weights_with_other_budgets_are_refused(registry: DefenderRegistry, folder: Path, tmp_path: Path) -> None:
    """The digest covers the weights alone: the entry would serve other budgets from then on."""
    digest = registry.register(folder)
    before = registry.storage.child(digest).read_bytes("config.json")
    change_config(folder, budget={"min": 6, "max": 6, "default": 6}, name="other")
    with pytest.raises(
        ValueError, match=r"registered for budgets of 1 to 16 .*, not for a fixed budget of 6"
    ) as caught:
        registry.register(folder)
    assert "\n" not in str(caught.value)
    assert registry.storage.child(digest).read_bytes("config.json") == before
    shipped = tmp_path / "copy"
    shutil.copytree(tmp_path / "shipped" / "default", shipped)
    change_config(shipped, budget={"min": 1, "max": 16, "default": 2})
    with pytest.raises(ValueError, match="are those of defender tiny-7"):
        registry.register(shipped)


def write_weights(folder: Path, **tensors: np.ndarray) -> None:
    """Other weights, and the digest that goes with them."""
    save_file(tensors, folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    sha = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    digest = defender_digest(config["architecture"], {"weights.safetensors": sha})
    change_config(folder, digest=digest, files=config["files"] | {"weights.safetensors": sha})


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"blocks.0.gate1": np.zeros(4, np.float16), "linear.weight": np.zeros((3, 4))}, "all weights in"),
        ({"blocks.0.gate1": np.ones(4), "linear.weight": np.zeros((3, 4)), "linear.bias": np.zeros(3)}, "last layer"),
    ],
)
def test_a_defender_that_changes_nothing_is_not_registered(
    registry: DefenderRegistry, folder: Path, tensors: dict[str, np.ndarray], sentence: str
) -> None:
    write_weights(folder, **tensors)
    with pytest.raises(DefenderCorrupt, match=rf"{sentence} .* are zero: this defender changes no photo"):
        registry.register(folder)
    assert not list(registry.storage.list_files())
    write_weights(folder, **tensors | {"linear.bias": np.ones(3)})
    assert registry.register(folder)

"""Reads and writes a defender folder: safetensors weights and a config.json.

The digest of a defender is the sha256 of its architecture and of the sha256 of each weights file. A folder whose
files do not match its config is refused: protecting with the wrong weights would publish unprotected photos.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from rid.models.budget import BudgetRange as BudgetRange
from rid.models.networks import Network, make_network, read_size

SHARD_BYTES = 24 * 2**20
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class DefenderCard:
    """The card of a defender, beside its weights.

    Attributes:
        name: short name shown in lists.
        description: plain words on what it was trained against, and what it is not.
        budget: the budgets it serves.
        licence: licence of the weights.
        origin: where the weights come from: a recipe's name, or the file imported.
        training: how it was trained: recipe, models, data, seed, steps, digest of the configuration.
    """

    name: str
    description: str
    budget: BudgetRange
    licence: str
    origin: str
    training: dict[str, Any] = field(default_factory=dict)


def save_defender(folder: Path, defender: Network, card: DefenderCard, *, precision: Precision = "float32") -> str:
    """Writes weights in shards under 25 MB, then config.json, and returns the defender's digest.

    Args:
        folder: created if missing; must not hold another defender's weights.
        defender: the network.
        card: its description.
        precision: the stored type; the network that is read back has these rounded weights in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().cpu().to(getattr(torch, precision)).contiguous()
        for name, tensor in defender.state_dict().items()
    }
    shards = _shards(state)
    names = (
        [f"weights-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        if len(shards) > 1
        else ["weights.safetensors"]
    )
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
    files = {name: file_sha256(folder / name) for name in names}
    digest = defender_digest(defender.size.to_json(), files)
    config = {
        "digest": digest,
        "name": card.name,
        "description": card.description,
        "architecture": defender.size.to_json(),
        "working_resolution": defender.size.working_resolution,
        "budget": {"min": card.budget.min, "max": card.budget.max, "default": card.budget.default},
        "files": files,
        "training": card.training,
        "licence": card.licence,
        "origin": card.origin,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest


def load_defender(folder: Path) -> tuple[Network, dict[str, Any]]:
    """Reads a defender folder and returns the network in float32, in evaluation mode, and its config.

    The network refuses budgets that the config does not name.

    Raises:
        ValueError: if a file is missing, changed, or holds missing, extra or misshapen tensors; the message names it.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} is not a defender folder: it has no config.json")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    weights = {name: sha for name, sha in config["files"].items() if name.endswith(".safetensors")}
    state: dict[str, torch.Tensor] = {}
    for name, sha in weights.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha:
            raise ValueError(
                f"{folder / name} is missing or is not the file that config.json describes; fetch the defender again"
            )
        state.update(load_file(folder / name))
    size = read_size(config["architecture"])
    if defender_digest(size.to_json(), weights) != config["digest"]:
        raise ValueError(f"{folder}: the digest in config.json does not match its architecture and weights")
    defender = make_network(size, BudgetRange(**config["budget"]))
    load_strictly(defender, state, str(folder))
    return defender.eval(), config


def load_strictly(module: torch.nn.Module, state: dict[str, torch.Tensor], origin: str) -> None:
    """Loads `state` into `module`, converting to its type; every key and shape must match.

    Raises:
        ValueError: naming the first missing, extra or misshapen tensor.
    """
    wanted = module.state_dict()
    check_shapes(state, {name: tuple(tensor.shape) for name, tensor in wanted.items()}, origin)
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()})


@torch.no_grad()
def check_effect(defender: Network, origin: str) -> None:
    """Shows a network seeded noise and holds its output against zero.

    Args:
        defender: in any mode; its default budget is used, or 1 level if it has none.
        origin: what it is called in the message.

    Raises:
        ValueError: if it outputs zero everywhere, or something that is no finite number.
    """
    side = defender.size.working_resolution
    weights = next(defender.parameters())
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)  # (1, 3, S, S)
    budget = torch.tensor([float(defender.budget.default if defender.budget else 1)])
    levels = defender(noise.to(weights), budget.to(weights))  # (1, 3, S, S)
    if not bool(torch.isfinite(levels).all()):
        raise ValueError(f"{origin}: the network outputs values that are not finite numbers")
    if not bool(levels.any()):
        raise ValueError(f"{origin}: the network outputs zero everywhere: it changes no photo and protects none")


def check_shapes(state: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[int, ...]], origin: str) -> None:
    """Holds the names and shapes of tensors against those that are wanted.

    Raises:
        ValueError: naming the first missing, extra or misshapen tensor.
    """
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not a tensor of this architecture" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} where {shape} is needed"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        raise ValueError(f"{origin}: {problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))


def defender_digest(architecture: dict[str, Any], weights: dict[str, str]) -> str:
    """Returns the sha256 that names a defender, from its architecture and its weights files' sha256."""
    canonical = json.dumps({"architecture": architecture, "weights": weights}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Splits tensors, in order, into groups of at most SHARD_BYTES (a larger tensor is a group of its own)."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for name, tensor in state.items():
        if shards[-1] and used + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    return shards

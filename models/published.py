"""Reads the checkpoints that the RID authors published, and folds what is constant in them.

A checkpoint is a torch state dict of a DiT that is modulated by the zero vector. SiLU(0) = 0, so of each modulation
layer only the bias acts: modulate(y) = y * (1 + scale) + shift is a LayerNorm's affine part, and a gate is a vector.
That is the form of `rid.models.defender`, so folding adds 1 to the scales and renames the rest. The time-step embedder,
the label embedder and the modulation weights are dead; they are checked and left out.

S image side, P patch side, T tokens, D width, F time-step frequencies, K labels.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from rid.models.budget import BudgetRange, signed_to_levels
from rid.models.checkpoint import DefenderCard, check_effect, check_shapes, file_sha256, load_strictly
from rid.models.defender import Defender, DefenderSize, sincos_positions

HEADS = 8  # of every published checkpoint; the shapes of its tensors do not tell
BLOCKS = {1152: 14}  # by width, of every published checkpoint: a file that lost its last blocks still fits together
EXAMPLE = "ASDS-eps-12_255.bin"
BUDGET_IN_NAME = re.compile(r"eps-?(\d+)_255")
POSITION_ROUNDING = 1e-6  # what another library's sine and cosine may differ by
LOSSES = {
    "ASDS-eps": "Adv-SDS and regression",
    "ASDS-onlyreg": "regression to teacher perturbations alone",
    "ASDS-onlysds": "Adv-SDS alone",
}


class CheckpointDamaged(ValueError):
    """A checkpoint with a part that is not what was written."""


def read_published(
    path: Path, *, budget_levels: int | None = None, heads: int = HEADS, blocks: int | None = None
) -> Defender:
    """Reads a published checkpoint and returns the folded network in float32, in evaluation mode.

    Args:
        path: the .bin file.
        budget_levels: the budget it was trained at, in 8-bit levels, where the file's name does not say.
        heads: attention heads.
        blocks: transformer blocks, where the width is none that was published.

    Raises:
        ValueError: in one sentence, if the file is no such checkpoint, naming the first missing, extra or misshapen
            tensor, if it is damaged, if its budget or its number of blocks is not known, or if it changes no photo.
    """
    state = load_state(path)
    budget = trained_budget(path.name, budget_levels)
    size = infer_size(state, heads, blocks, str(path))
    check_shapes(state, published_shapes(size, state), str(path))
    size, folded = fold_constants(state, size)
    for name, tensor in folded.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {name} holds values that are not finite numbers")
    defender = Defender(size, budget)
    load_strictly(defender, folded, str(path))
    check_effect(defender, str(path))
    return defender.eval()


def published_card(path: Path, budget: BudgetRange, name: str | None = None) -> DefenderCard:
    """Describes an imported checkpoint: where it comes from and what it claims, which nothing here has measured."""
    losses = next((text for mark, text in LOSSES.items() if mark in path.name), None)
    sha = file_sha256(path)
    return DefenderCard(
        name=name or path.stem,
        description=f"Imported checkpoint of the RID paper (arXiv 2412.09844) with {budget}"
        + (f", by its name trained with {losses}" if losses else "")
        + "; not measured here.",
        budget=budget,
        licence="that of the RID authors, who published the weights",
        origin=f"{path.name}, sha256 {sha}",
        training={"checkpoint": path.name, "checkpoint_sha256": sha, "losses": losses or "not stated"},
    )


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads a file of tensors by name. Nothing in the file is executed; a zip is mapped, not copied, into memory.

    Raises:
        ValueError: in one sentence, if it is anything else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}: give a published checkpoint such as {EXAMPLE}")
    try:
        _check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses at what is wrong with a pickle
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (MemoryError, CheckpointDamaged):
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a published checkpoint: it is damaged or holds more than tensors; nothing in it was run"
        ) from error
    except Exception as error:  # torch's readers of broken files raise types that share no base class
        raise ValueError(
            f"{path} is not a published checkpoint: torch cannot read it ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path} is not a published checkpoint: it holds a {type(state).__name__}, no tensors by name")
    for name, value in state.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided and value.is_floating_point()
        if not dense or value.numel() == 0:
            raise ValueError(f"{path} is not a published checkpoint: {name} is no tensor of floating-point numbers")
    return dict(state)


def trained_budget(file_name: str, stated: int | None) -> BudgetRange:
    """Returns the fixed budget of a checkpoint, from the name of its file or as stated.

    A name's "12_255" is 12/255 in the [-1, 1] convention: 6 levels.

    Args:
        file_name: such as "ASDS-eps-12_255.bin".
        stated: in 8-bit levels.

    Raises:
        ValueError: if neither says the budget, they disagree, or it is not a whole number of levels from 1 to 16.
    """
    match = BUDGET_IN_NAME.search(file_name)
    named = signed_to_levels(Fraction(int(match[1]), 255)) if match else None
    levels = stated if named is None else named
    if levels is None:
        raise ValueError(
            f"the name of {file_name} does not say the budget it was trained at, as in {EXAMPLE}: "
            "state it in 8-bit levels with --budget (12/255 in [-1, 1] is 6)"
        )
    if stated not in (None, levels):
        raise ValueError(
            f"{file_name} was trained at {float(levels):g} levels by its name, not at {stated}: "
            "rename the file if its name is wrong"
        )
    if levels != int(levels):
        raise ValueError(f"{file_name} was trained at {float(levels):g} levels: only whole levels are supported")
    return BudgetRange(int(levels), int(levels), int(levels))


def infer_size(state: Mapping[str, Tensor], heads: int, blocks: int | None, origin: str) -> DefenderSize:
    """Reads the architecture off the tensors' shapes; the number of blocks is that of the published width, or stated.

    Raises:
        ValueError: naming a tensor that is missing or whose shape belongs to no architecture, or if the number of
            blocks is not known.
    """
    patch = _shape(state, "x_embedder.proj.weight", 4, origin)[-1]
    tokens = _shape(state, "pos_embed", 3, origin)[1]
    hidden = _shape(state, "blocks.0.mlp.fc1.weight", 2, origin)[0]
    width = Counter(tensor.shape[-1] for tensor in state.values() if tensor.ndim).most_common(1)[0][0]
    grid = math.isqrt(tokens)
    if grid * grid != tokens:
        raise ValueError(f"{origin}: pos_embed has {tokens} positions, which is not the number of patches of a square")
    if hidden % width:
        raise ValueError(f"{origin}: blocks.0.mlp.fc1.weight has {hidden} rows, which is no multiple of {width}")
    if heads < 1 or width % heads:
        raise ValueError(f"{origin} has a width of {width}, which {heads} heads do not divide: state --heads")
    return DefenderSize(
        working_resolution=grid * patch,
        patch=patch,
        width=width,
        depth=_depth(width, blocks, origin),
        heads=heads,
        mlp_ratio=hidden // width,
    )


def published_shapes(size: DefenderSize, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a published checkpoint.

    F and K are sizes of dead tensors alone and tied to nothing: any is taken.
    """
    D, P = size.width, size.patch
    F, K = _free(state, "t_embedder.mlp.0.weight", -1), _free(state, "y_embedder.embedding_table.weight", 0)
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (D, 3, P, P),
        "x_embedder.proj.bias": (D,),
        "pos_embed": (1, (size.working_resolution // P) ** 2, D),
        "t_embedder.mlp.0.weight": (D, F),
        "t_embedder.mlp.0.bias": (D,),
        "t_embedder.mlp.2.weight": (D, D),
        "t_embedder.mlp.2.bias": (D,),
        "y_embedder.embedding_table.weight": (K, D),
        "final_layer.linear.weight": (P * P * 3, D),
        "final_layer.linear.bias": (P * P * 3,),
        "final_layer.adaLN_modulation.1.weight": (2 * D, D),
        "final_layer.adaLN_modulation.1.bias": (2 * D,),
    }
    block = block_shapes(D, size.mlp_ratio * D)
    return shapes | {f"blocks.{i}.{name}": shape for i in range(size.depth) for name, shape in block.items()}


def block_shapes(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of one block's tensors."""
    return {
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
        "adaLN_modulation.1.weight": (6 * width, width),
        "adaLN_modulation.1.bias": (6 * width,),
    }


def fold_constants(state: Mapping[str, Tensor], size: DefenderSize) -> tuple[DefenderSize, dict[str, Tensor]]:
    """Returns the tensors of a `Defender`, and its size: its positions are stored only if they are not sine-cosine."""
    shift, scale = state["final_layer.adaLN_modulation.1.bias"].float().chunk(2)  # (D,) each
    folded = {
        "patches.weight": state["x_embedder.proj.weight"],
        "patches.bias": state["x_embedder.proj.bias"],
        "norm.weight": 1 + scale,
        "norm.bias": shift,
        "linear.weight": state["final_layer.linear.weight"],
        "linear.bias": state["final_layer.linear.bias"],
    }
    for i in range(size.depth):
        modulation = state[f"blocks.{i}.adaLN_modulation.1.bias"].float().chunk(6)  # (D,) each
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        constants = {
            "norm1.weight": 1 + scale1,
            "norm1.bias": shift1,
            "gate1": gate1,
            "norm2.weight": 1 + scale2,
            "norm2.bias": shift2,
            "gate2": gate2,
        }
        folded |= {f"blocks.{i}.{name}": tensor for name, tensor in constants.items()}
        kept = [name for name in block_shapes(0, 0) if not name.startswith("adaLN")]
        folded |= {f"blocks.{i}.{name}": state[f"blocks.{i}.{name}"] for name in kept}
    positions = state["pos_embed"][0].float()  # (T, D)
    fixed = sincos_positions(size.width, size.working_resolution // size.patch)  # (T, D)
    if torch.allclose(positions, fixed, rtol=0, atol=POSITION_ROUNDING):
        return size, folded
    return replace(size, stored_positions=True), folded | {"positions": positions}


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int, origin: str) -> torch.Size:
    if name not in state:
        raise ValueError(f"{origin} is not a published checkpoint: {name} is missing")
    if state[name].ndim != dimensions:
        raise ValueError(f"{origin}: {name} has shape {tuple(state[name].shape)} where {dimensions} sides are needed")
    return state[name].shape


def _free(state: Mapping[str, Tensor], name: str, side: int) -> int:
    return state[name].shape[side] if name in state and state[name].ndim == 2 else 0


def _depth(width: int, stated: int | None, origin: str) -> int:
    """The number of blocks that has to be there; the tensors do not tell whether the last of them are missing."""
    depth = stated or BLOCKS.get(width)
    if depth is None:
        known = ", ".join(f"{blocks} at width {known_width}" for known_width, blocks in BLOCKS.items())
        raise ValueError(
            f"{origin} has a width of {width}, and the number of its blocks is known for no such checkpoint ({known} "
            "were published): state it with --blocks"
        )
    return depth


def _check_sums(path: Path) -> None:
    """Holds every member of a zip against its CRC, which torch's reader does not do.

    Raises:
        CheckpointDamaged: naming a member that is another than was written.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointDamaged(
            f"{path} is not a published checkpoint as it was written: {damaged} in it is damaged (its CRC differs); "
            "fetch the file again"
        )

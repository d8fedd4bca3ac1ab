"""Random checkpoints in the format of the RID authors, and the network they describe, written from its definition.

Nothing here shares code with the project: the forward pass keeps the modulation unfolded, with its dead weights.

B batch, S image side, P patch side, G = S/P, T = G*G tokens, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a checkpoint: side, patch, width, depth, heads."""

    side: int = 32
    patch: int = 8
    width: int = 32
    depth: int = 2
    heads: int = 8


REFERENCE = Shape(side=512, patch=16, width=1152, depth=14, heads=8)


def random_checkpoint(shape: Shape, seed: int = 0) -> State:
    """Draws weights such that every part matters: gates, shifts and scales are far from zero."""
    generator = torch.Generator().manual_seed(seed)
    D, P = shape.width, shape.patch

    def normal(*sides: int, scale: float | None = None) -> Tensor:
        return torch.randn(*sides, generator=generator) * (sides[-1] ** -0.5 if scale is None else scale)

    def linear(name: str, rows: int, columns: int, bias: float = 0.1) -> State:
        return {f"{name}.weight": normal(rows, columns), f"{name}.bias": normal(rows, scale=bias)}

    state = {
        "x_embedder.proj.weight": normal(D, 3, P, P, scale=(3 * P * P) ** -0.5),
        "x_embedder.proj.bias": normal(D, scale=0.1),
        "pos_embed": sine_cosine(D, shape.side // P),
        **linear("t_embedder.mlp.0", D, 256),
        **linear("t_embedder.mlp.2", D, D),
        "y_embedder.embedding_table.weight": normal(11, D),
        **linear("final_layer.linear", P * P * 3, D),
        **linear("final_layer.adaLN_modulation.1", 2 * D, D, bias=0.3),
    }
    for i in range(shape.depth):
        state |= {
            **linear(f"blocks.{i}.attn.qkv", 3 * D, D),
            **linear(f"blocks.{i}.attn.proj", D, D),
            **linear(f"blocks.{i}.mlp.fc1", 4 * D, D),
            **linear(f"blocks.{i}.mlp.fc2", D, 4 * D),
            **linear(f"blocks.{i}.adaLN_modulation.1", 6 * D, D, bias=0.3),
        }
    return state


def write_checkpoint(path: Path, shape: Shape | None = None, seed: int = 0) -> State:
    """Writes a random checkpoint and returns its tensors."""
    state = random_checkpoint(shape or Shape(), seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return state


def sine_cosine(width: int, grid: int) -> Tensor:
    """The fixed 2-D position embedding, (1, G*G, D): the column in the first half of the channels, then the row."""
    places = np.arange(grid * grid)
    halves = []
    for axis in (places % grid, places // grid):
        angles = axis[:, None] / 10000 ** (np.arange(width // 4) / (width / 4))
        halves += [np.sin(angles), np.cos(angles)]
    return torch.from_numpy(np.concatenate(halves, axis=1)[None].astype(np.float32))


@torch.no_grad()
def unfolded_forward(state: State, shape: Shape, image: Tensor) -> Tensor:
    """Returns tanh(.) of the network before the budget, (B, 3, S, S), for images in [-1, 1]; in the images' type."""
    B, D, P, G, H = len(image), shape.width, shape.patch, shape.side // shape.patch, shape.heads

    def get(name: str) -> Tensor:
        return state[name].to(image.dtype)

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ get(f"{name}.weight").T + get(f"{name}.bias")

    def modulation(name: str, parts: int) -> tuple[Tensor, ...]:
        c = torch.zeros(B, 1, D, dtype=image.dtype)
        return linear(name, F.silu(c)).chunk(parts, dim=-1)  # (B, 1, D) each

    def modulate(value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        mean, variance = value.mean(-1, keepdim=True), value.var(-1, keepdim=True, unbiased=False)
        return (value - mean) / (variance + 1e-6).sqrt() * (1 + scale) + shift

    def attention(name: str, value: Tensor) -> Tensor:
        heads = linear(f"{name}.qkv", value).view(B, -1, 3, H, D // H)  # (B, T, 3, H, D/H)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D/H) each
        mixed = (q @ k.transpose(-1, -2) / (D // H) ** 0.5).softmax(-1) @ v  # (B, H, T, D/H)
        return linear(f"{name}.proj", mixed.transpose(1, 2).reshape(B, -1, D))

    def mlp(name: str, value: Tensor) -> Tensor:
        return linear(f"{name}.fc2", F.gelu(linear(f"{name}.fc1", value), approximate="tanh"))

    patches = image.view(B, 3, G, P, G, P).permute(0, 2, 4, 1, 3, 5).reshape(B, G * G, 3 * P * P)
    x = patches @ get("x_embedder.proj.weight").reshape(D, -1).T + get("x_embedder.proj.bias")  # (B, T, D)
    x = x + get("pos_embed")
    for i in range(shape.depth):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(f"blocks.{i}.adaLN_modulation.1", 6)
        x = x + gate1 * attention(f"blocks.{i}.attn", modulate(x, shift1, scale1))
        x = x + gate2 * mlp(f"blocks.{i}.mlp", modulate(x, shift2, scale2))
    shift, scale = modulation("final_layer.adaLN_modulation.1", 2)
    x = linear("final_layer.linear", modulate(x, shift, scale)).view(B, G, G, P, P, 3)  # rows, columns, p, p, channel
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, 3, shape.side, shape.side).tanh()

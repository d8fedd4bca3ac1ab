"""An attacker who holds the defender: protects photos of his own and trains a network to undo it.

The network is a small residual U-Net that takes protected photos to clean ones. It is as good as the pairs are many and
near to what it is used on, and needs nothing from the people that it is used against.

B batch, N photos, S their side, W channels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from rid.models.networks import Network
from rid.training.batches import pixels_to_signed
from rid.training.evaluation.effect.defended import perturb_squares

AT_ONCE = 64  # photos in a forward pass without gradients


@dataclass(frozen=True)
class RestorationConfig:
    """The settings of a restoration network, beside the defender and the photos.

    Attributes:
        budget_levels: of the pairs, in 8-bit levels.
        width: W, channels at full resolution; twice as many at half of it.
        blocks: residual blocks at half resolution.
        steps: optimiser steps.
        batch: pairs a step.
        learning_rate: of Adam at its highest; it falls linearly to zero at the last step.
        seed: of weights and draws.
    """

    budget_levels: int = 16
    width: int = 16
    blocks: int = 4
    steps: int = 800
    batch: int = 8
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("budget_levels", "width", "blocks", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not allowed: give 1 or more")

    def digest(self) -> str:
        """sha256 of the configuration."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class RestorationNetwork(nn.Module):
    """Takes (B, 3, S, S) in [-1, 1] to the same; a fresh one changes nothing. S is even."""

    def __init__(self, config: RestorationConfig) -> None:
        """Builds fresh weights from torch's generator."""
        super().__init__()
        width = config.width
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(_residual(2 * width) for _ in range(config.blocks))
        self.up = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the restored photos, unclipped."""
        fine = F.relu(self.head(image))  # (B, W, S, S)
        coarse = F.relu(self.down(fine))  # (B, 2W, S/2, S/2)
        for block in self.blocks:
            coarse = coarse + block(coarse)
        joined = F.relu(fine + F.pixel_shuffle(self.up(coarse), 2))  # (B, W, S, S)
        correction: Tensor = self.tail(joined)
        return image + correction


def restoration_64() -> RestorationConfig:
    """For 64 px photos: 800 steps of 8 pairs, about a minute of one core.

    Chosen on development identities, with 355 photos to train on: 500 steps take protected photos of two other people
    from 24.5 to 32.8 dB (SSIM from 0.70 to 0.95); 300 steps with 24 channels to 31.3 dB.
    """
    return RestorationConfig()


def train_restoration(
    defender: Network, photos: NDArray[np.uint8], config: RestorationConfig
) -> tuple[RestorationNetwork, list[float]]:
    """Protects photos and trains a network from protected to clean ones with an L1 loss.

    Photos are mirrored before they are protected, half of the time.

    Args:
        defender: the one that is to be undone.
        photos: (N, S, S, 3) clean photos of the defender's working resolution.
        config: how.

    Returns:
        The network, and the loss at each step, in levels.

    Raises:
        ValueError: if there are no photos.
    """
    if not len(photos):
        raise ValueError("a restoration network needs photos to train on: none of those given shows a face")
    clean = np.concatenate([photos, photos[:, :, ::-1]])  # (2N, S, S, 3)
    pieces = [clean[start : start + AT_ONCE] for start in range(0, len(clean), AT_ONCE)]
    changes = [perturb_squares(defender, piece, config.budget_levels) for piece in pieces]
    protected = (clean + np.concatenate(changes)).astype(np.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = RestorationNetwork(config)
    device = next(defender.parameters()).device
    network.to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    random = np.random.default_rng(config.seed)
    losses = []
    for step in range(config.steps):
        chosen = random.integers(0, len(clean), config.batch)
        restored = network(pixels_to_signed(protected[chosen]).to(device))  # (B, 3, S, S)
        loss = F.l1_loss(restored, pixels_to_signed(clean[chosen]).to(device))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (1 - step / config.steps)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(127.5 * float(loss.detach()))
    return network.eval().requires_grad_(False), losses


@torch.no_grad()
def restore(network: RestorationNetwork, photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns (N, S, S, 3) photos as the network believes that they were."""
    device = next(network.parameters()).device
    pieces = [photos[start : start + AT_ONCE] for start in range(0, len(photos), AT_ONCE)]
    restored = torch.cat([network(pixels_to_signed(piece).to(device)).cpu() for piece in pieces])  # (N, 3, S, S)
    return np.asarray(((restored + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy(), np.uint8)


def pack_restoration(network: RestorationNetwork) -> bytes:
    """Returns the weights in the safetensors format."""
    return save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})


def unpack_restoration(
    packed: bytes, config: RestorationConfig, device: str | torch.device = "cpu"
) -> RestorationNetwork:
    """Returns the network of `pack_restoration`'s bytes."""
    network = RestorationNetwork(config)
    network.load_state_dict(load(packed))
    return network.to(device).eval().requires_grad_(False)


def _residual(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))

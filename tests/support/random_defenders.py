"""Defenders of random weights, which change every photo, and photos of random values."""

import torch
from torch import Tensor

from rid.models.defender import Defender, DefenderSize


def randomised(size: DefenderSize, seed: int = 0) -> Defender:
    torch.manual_seed(seed)
    defender = Defender(size)
    with torch.no_grad():
        for parameter in defender.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return defender.eval()


def photos(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1

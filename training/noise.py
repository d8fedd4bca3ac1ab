"""Counter-based random numbers: a photo's depend on the seed, the step and its place in the step's batch alone.

So they are the same however a batch is cut into micro-batches or spread over processes, and after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class StepNoise:
    """Draws for some photos of one step's batch, one generator a photo; every draw continues its sequence."""

    def __init__(self, seed: int, step: int, positions: Sequence[int]) -> None:
        """Seeds the generators.

        Args:
            seed: of the run, at least 0.
            step: number of the optimiser step.
            positions: places of the photos in the step's whole batch.
        """
        self._generators = [torch.Generator().manual_seed(_hashed(seed, step, position)) for position in positions]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Returns (B, *shape) standard normal numbers, on the CPU."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self._generators])

    def integers(self, low: int, high: int) -> Tensor:
        """Returns (B,) integers, uniform over low..high-1, on the CPU."""
        return torch.cat([torch.randint(low, high, (1,), generator=generator) for generator in self._generators])

    def uniform(self) -> Tensor:
        """Returns (B,) numbers, uniform over [0, 1), on the CPU."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self._generators])


def _hashed(seed: int, step: int, position: int) -> int:
    state = np.random.SeedSequence([seed, step, position]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))

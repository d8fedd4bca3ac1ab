"""Displacement in an ensemble of latent spaces, as the attacker sees it, and what keeps it specific to the photo.

    L = -E_spaces E_photos log || (E(v(x')) - E(v(x))) / sigma ||^2  +  effort  +  shared part

v is the attacker's view (`rid.training.views`) and sigma a channel's standard deviation on clean photos. The logarithm
weighs photos and spaces by what they gain in proportion: none is left behind, and small budgets count as large ones do.

B batch, S side of the square, V side of the view, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rid.models.latent_space import LatentSpace, channel_deviation, displacement
from rid.training.config import TrainingConfig
from rid.training.noise import StepNoise
from rid.training.views import STEP_POSITION, View, see

FLOOR = 1e-4  # of channel variance: below it a displacement counts no less
TILE = 16  # pixels: the period of patterns that are the same wherever they stand


@dataclass(frozen=True)
class SpaceTarget:
    """A latent space that a training moves photos in.

    Attributes:
        space: the frozen encoder.
        deviation: (C, 1, 1), the unit of its channels.
    """

    space: LatentSpace
    deviation: Tensor


def space_targets(spaces: Sequence[LatentSpace], views: Tensor) -> list[SpaceTarget]:
    """Measures the unit of each space on (N, 3, V, V) clean views."""
    return [SpaceTarget(space, channel_deviation(space, views.to(space.device))) for space in spaces]


def chosen_targets(targets: Sequence[SpaceTarget], config: TrainingConfig, step: int) -> list[SpaceTarget]:
    """Draws the spaces of a step, each at most once."""
    if config.spaces_a_step >= len(targets):
        return list(targets)
    draws = StepNoise(config.seed, step, [STEP_POSITION + 1 + index for index in range(len(targets))]).uniform()
    return [targets[index] for index in draws.argsort()[: config.spaces_a_step].tolist()]


def space_displacement_loss(
    targets: Sequence[SpaceTarget], image: Tensor, protected: Tensor, view: View, config: TrainingConfig
) -> Tensor:
    """Returns minus the mean logarithm of the displacement, over spaces and photos.

    Args:
        targets: the spaces of the step.
        image: (B, 3, S, S) photos in [-1, 1].
        protected: (B, 3, S, S) the same, protected, with its gradient.
        view: of the attacker.
        config: names the side of the view and the weight of the decoded picture.
    """
    with torch.no_grad():
        clean = see(image, view, config.view_side)  # (B, 3, V, V)
    changed = see(protected, view, config.view_side)  # (B, 3, V, V)
    losses = []
    for index, target in enumerate(targets):
        with torch.no_grad():
            origin = target.space.encode(clean)  # (B, C, h, w)
        latents = target.space.encode(changed)  # (B, C, h, w)
        losses.append(-log_displacement((latents - origin) / target.deviation))
        if config.picture_weight and index == 0:
            losses.append(config.picture_weight * len(targets) * -picture_change(target.space, latents, clean))
    return torch.stack(losses).sum() / len(targets)


def log_displacement(shifts: Tensor) -> Tensor:
    """Returns the mean logarithm of the displacements of (B, C, h, w) shifts."""
    return (displacement(shifts) + FLOOR).log().mean()


def picture_change(space: LatentSpace, latents: Tensor, clean: Tensor) -> Tensor:
    """Returns the mean logarithm of the change of the decoded picture, against the clean view.

    An autoencoder may redraw photo and pattern, whatever the latents do; this counts what it draws.

    Args:
        space: with a decoder.
        latents: (B, C, h, w) of the protected views.
        clean: (B, 3, V, V) views in [-1, 1].
    """
    decoded = space.decode(latents)[:, :, : clean.shape[2], : clean.shape[3]]  # (B, 3, V, V)
    return ((decoded - clean).square().mean(dim=(1, 2, 3)) + FLOOR).log().mean()


def effort(share: Tensor) -> Tensor:
    """Returns the mean of 2 log cosh(u), where (B, 3, S, S) `share` = tanh(u): quadratic in small u, linear in large.

    Without it values run into the end of the tanh, where no photo can move them any more.
    """
    return -torch.log1p(-share.square().clamp(max=1 - 1e-6)).mean()


def shared_part(share: Tensor) -> Tensor:
    """Returns the part of the energy of (B, 3, S, S) perturbations that photos have in common; 0 for unrelated ones.

    Two patterns count: one of the size of the square, and one that repeats every 16 pixels.
    """
    B, _, S, _ = share.shape
    energy = share.square().mean() + 1e-8
    pattern = share.mean(dim=0).square().mean() / energy - 1 / B
    inside = share[:, :, : S - S % TILE, : S - S % TILE]
    across = S // TILE
    tiles = inside.reshape(B, 3, across, TILE, across, TILE)
    count = B * across * across
    tile = tiles.mean(dim=(0, 2, 4)).square().mean() / energy - 1 / count
    return torch.as_tensor(pattern.clamp(min=0) + tile.clamp(min=0))

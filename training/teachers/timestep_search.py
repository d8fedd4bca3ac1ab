"""The greedy search of time steps of SimAC (Wang et al., CVPR 2024, arXiv 2312.07865).

N photos, B of them in a batch, T time steps, J candidates, C latent channels, h and w latent sides, S side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.devices import teacher_autocast
from rid.training.teachers.advdm import diffusion_loss
from rid.training.teachers.options import SimacOptions
from rid.training.teachers.pgd import GRADIENT_SCALE, encode
from rid.training.teachers.photos import Photos


def informative_timesteps(
    model: FrozenDiffusion, photos: Photos, options: SimacOptions, batch: int, seed: int
) -> Tensor:
    """Returns (N, T) bool on the CPU: the time steps that the search leaves to each photo, at least one."""
    parts = [_search(model, photos, rows, options, seed) for rows in photos.batches(batch)]
    return torch.cat(parts)[: len(photos)]


def drop_least(allowed: Tensor, candidates: Tensor, sizes: Tensor, options: SimacOptions) -> Tensor:
    """Drops the least informative candidate's neighbourhood from the time steps of photos that still have too many.

    Args:
        allowed: (B, T) bool.
        candidates: (B, J) time steps.
        sizes: (B, J) gradient sizes at the candidates.
        options: of the search.
    """
    T = allowed.shape[1]
    least = candidates.gather(1, sizes.argmin(dim=1, keepdim=True))  # (B, 1)
    most = candidates.gather(1, sizes.argmax(dim=1, keepdim=True))  # (B, 1)
    left = allowed & ((torch.arange(T) - least).abs() > options.radius)  # (B, T)
    left = left.scatter(1, most, True)
    searching = allowed.sum(dim=1, keepdim=True) > options.remaining  # (B, 1)
    return torch.where(searching, left, allowed)


def gradient_sizes(model: FrozenDiffusion, image: Tensor, candidates: Tensor, noise: Tensor) -> Tensor:
    """Returns the (B, J) mean absolute gradients of the diffusion loss in the image.

    Args:
        model: a frozen model.
        image: (B, 3, S, S) in [-1, 1].
        candidates: (B, J) time steps.
        noise: (B, C, h, w), the same for all candidates of a photo, so that they can be compared.
    """
    variable = image.clone().requires_grad_(True)
    latents = encode(model, variable, None)  # (B, C, h, w)
    sizes = []
    for timesteps in candidates.T:
        with teacher_autocast(latents.device):
            loss = GRADIENT_SCALE * diffusion_loss(model, latents, timesteps, noise).sum()
        (gradient,) = torch.autograd.grad(loss, variable, retain_graph=True)  # (B, 3, S, S)
        sizes.append(gradient.abs().mean(dim=(1, 2, 3)))
    return torch.stack(sizes, dim=1)


def _search(model: FrozenDiffusion, photos: Photos, rows: list[int], options: SimacOptions, seed: int) -> Tensor:
    """Returns the (B, T) time steps left to one batch; a photo that is done is left as it is."""
    allowed = torch.ones(len(rows), len(model.schedule.abar), dtype=torch.bool)  # (B, T)
    image, step = photos.image(rows=rows), 0
    while bool((allowed.sum(dim=1) > options.remaining).any()):
        noise = photos.noise(seed, "search", step, rows)
        scores = noise.normal(allowed.shape[1:]).masked_fill(~allowed, -torch.inf)  # (B, T)
        # Photos that are done may have fewer time steps left than there are candidates; theirs are not looked at.
        candidates = scores.topk(options.candidates, dim=1).indices  # (B, J)
        drawn = noise.normal(model.latent_shape).to(photos.device)  # (B, C, h, w)
        sizes = gradient_sizes(model, image, candidates.to(photos.device), drawn)  # (B, J)
        allowed = drop_least(allowed, candidates, sizes.cpu(), options)
        step += 1
    return allowed

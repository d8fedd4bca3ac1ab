"""A JPEG round trip that gradients pass through: baseline coding with 4:2:0 chroma (ITU-T T.81, colours as in JFIF).

Entropy coding loses nothing and is left out. The forward pass rounds as a coder does; the gradient of rounding is that
of `round(x) + (x - round(x))^3` (Shin and Song, 2017), so that what falls into the zero bin gets almost none.

B batch, H and W sides in multiples of 16, N = H*W/64 blocks of a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
MCU = 2 * BLOCK  # a unit of 4:2:0 coding: two luma blocks a side

# Tables K.1 and K.2 of Annex K, rows of vertical frequency.
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# R, G, B to Y, Cb, Cr (JFIF 1.02, from Rec. 601).
TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


def jpeg_round_trip(image: Tensor, quality: Tensor) -> Tensor:
    """Codes and decodes.

    Args:
        image: (B, 3, H, W) RGB in [-1, 1], any sides.
        quality: (B,) from 1 to 100 as encoders of the Independent JPEG Group count it.

    Returns:
        (B, 3, H, W) in [-1, 1], values on the 8-bit grid.
    """
    height, width = image.shape[-2:]
    levels = 127.5 * (image.float() + 1)
    padded = F.pad(levels, (0, -width % MCU, 0, -height % MCU), mode="replicate")  # (B, 3, H, W)
    ycbcr = _round_straight_through(_mix(padded, _matrix(padded)))  # (B, 3, H, W), chroma about 0
    luma = _code(ycbcr[:, :1] - 128, scaled_table(LUMA_TABLE, quality.to(image.device)))  # (B, 1, H, W)
    small = _round_straight_through(F.avg_pool2d(ycbcr[:, 1:], 2))  # (B, 2, H/2, W/2)
    coded = _code(small, scaled_table(CHROMA_TABLE, quality.to(image.device)))
    chroma = F.interpolate(coded, scale_factor=2, mode="bilinear", align_corners=False)  # (B, 2, H, W)
    rgb = _mix(torch.cat([luma + 128, chroma], dim=1), torch.linalg.inv(_matrix(padded)))  # (B, 3, H, W)
    stored = _round_straight_through(rgb.clamp(0, 255))
    return (stored / 127.5 - 1)[..., :height, :width]


def scaled_table(table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Returns the (B, 1, 1, 8, 8) quantisation steps of (B,) qualities, by the Independent JPEG Group's formula."""
    quality = quality.view(-1, 1, 1, 1, 1).float()
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    base = torch.tensor(table, dtype=torch.float32, device=quality.device)
    return ((base * percent + 50) / 100).floor().clamp(1, 255)


def round_with_gradient(values: Tensor) -> Tensor:
    """Rounds; its gradient is 3 (x - round(x))^2: none at a grid point, 3/4 half way between two."""
    nearest = values.detach().round()
    smooth = nearest + (values - nearest) ** 3
    return smooth + (nearest - smooth).detach()


def dct_matrix() -> Tensor:
    """Returns the orthonormal (8, 8) DCT-II matrix D: D b D^T is the standard's forward transform of a block b."""
    frequency = torch.arange(BLOCK, dtype=torch.float64)[:, None]
    place = torch.arange(BLOCK, dtype=torch.float64)[None, :]
    cosines = torch.cos((2 * place + 1) * frequency * torch.pi / (2 * BLOCK)) / 2  # (8, 8)
    cosines[0] /= 2**0.5
    return cosines.float()


def _code(channels: Tensor, steps: Tensor) -> Tensor:
    """Transforms, quantises and transforms back (B, C, H, W) zero-centred channels, sides in multiples of 8."""
    B, C, H, W = channels.shape
    transform = dct_matrix().to(channels.device)  # (8, 8)
    blocks = channels.view(B, C, H // BLOCK, BLOCK, W // BLOCK, BLOCK).transpose(3, 4)  # (B, C, H/8, W/8, 8, 8)
    blocks = blocks.reshape(B, C, -1, BLOCK, BLOCK)  # (B, C, N, 8, 8)
    coefficients = transform @ blocks @ transform.T  # (B, C, N, 8, 8)
    restored = transform.T @ (round_with_gradient(coefficients / steps) * steps) @ transform  # (B, C, N, 8, 8)
    return restored.view(B, C, H // BLOCK, W // BLOCK, BLOCK, BLOCK).transpose(3, 4).reshape(B, C, H, W)


def _round_straight_through(values: Tensor) -> Tensor:
    return values + (values.round() - values).detach()


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(TO_YCBCR, dtype=torch.float32, device=like.device)


def _mix(image: Tensor, matrix: Tensor) -> Tensor:
    """Applies a (3, 3) matrix to the channels of (B, 3, H, W)."""
    return torch.einsum("dc,bchw->bdhw", matrix, image)

"""LPIPS (Zhang et al., arXiv 1801.03924): how different two pictures look to a network that sees as people do.

Needs the package `lpips`, a torchvision that fits torch, and the backbone's weights, which torchvision fetches once.
They are no dependency of this project: where one is missing, nothing is measured and a sentence says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.resampling import shrink

SIDE = 256  # pixels, the short side at which pictures are compared, as for SSIM
Backbone = Literal["alex", "squeeze", "vgg"]


class LpipsMissing(RuntimeError):
    """LPIPS cannot be measured here; the message says what is missing."""


def lpips_distances(
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], backbone: Backbone = "alex"
) -> NDArray[np.float32]:
    """Returns the LPIPS distance of each pair, 0 for equal pictures.

    Args:
        pairs: (H, W, 3) uint8 pictures, two of equal shape each.
        backbone: the network; "alex" is what is usually reported.

    Raises:
        LpipsMissing: if the package or the backbone's weights are not there.
    """
    if importlib.util.find_spec("lpips") is None:
        raise LpipsMissing("the package lpips is not installed")
    import torch

    try:
        import lpips

        network = lpips.LPIPS(net=backbone, verbose=False).eval()
    except (ImportError, OSError, RuntimeError) as error:
        raise LpipsMissing(f"{backbone} cannot be loaded ({str(error).splitlines()[0][:120]})") from error
    with torch.no_grad():
        return np.array([float(network(_signed(a), _signed(b))) for a, b in pairs], np.float32)


def _signed(picture: NDArray[np.uint8]) -> Any:
    import torch

    small = shrink(np.ascontiguousarray(picture), min(SIDE, *picture.shape[:2]))
    return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))[None]).float() / 127.5 - 1  # (1, 3, h, w)

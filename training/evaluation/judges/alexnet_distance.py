"""Perceptual distances over AlexNet: LPIPS and ST-LPIPS, from the files that their authors publish.

LPIPS (Zhang et al., arXiv 1801.03924): d = sum_l mean_hw w_l . (f_l(x) - f_l(y))^2 over unit-normalised features f_l of
five layers. ST-LPIPS (Ghildyal and Liu, arXiv 2207.13686) is the same over an AlexNet that takes single steps and blurs
before it drops pixels: a picture and its shift are alike.

B batch, C channels, h and w sides of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet, for pictures in [-1, 1]
TINY = 1e-10
LAYERS = 5
SHIFT_TOLERANT = ("net.slice1.0", "net.slice2.5", "net.slice3.9", "net.slice4.11", "net.slice5.13")
BLURS = ("net.slice1.1", "net.slice2.4", "net.slice3.8")
PLAIN = tuple(f"features.{index}" for index in (0, 3, 6, 8, 10))
PADDING = (2, 2, 1, 1, 1)  # of the five convolutions


class AlexNetDistance:
    """One of the two distances.

    Args:
        weights: of the convolutions, the blurs if it is the shift-tolerant one, and the heads `linL.model.1.weight`.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = {name: tensor.float() for name, tensor in weights.items()}
        self._blurred = BLURS[0] + ".filt" in weights
        self._names = SHIFT_TOLERANT if self._blurred else PLAIN

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the distances (B,) of two (B, 3, H, W) pictures in [-1, 1], at least 32 pixels each side."""
        total = torch.zeros(len(x))
        for layer, (here, there) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            difference = (_unit(here) - _unit(there)).square()  # (B, C, h, w)
            weighted = F.conv2d(difference, self._weights[f"lin{layer}.model.1.weight"])  # (B, 1, h, w)
            total = total + weighted.mean(dim=(1, 2, 3))
        return total

    def features(self, picture: Tensor) -> Iterator[Tensor]:
        """Yields (B, C, h, w) activations of the five layers."""
        hidden = (picture - torch.tensor(SHIFT).view(1, 3, 1, 1)) / torch.tensor(SCALE).view(1, 3, 1, 1)
        for layer in range(LAYERS):
            if layer in (1, 2):
                hidden = F.max_pool2d(hidden, 3, stride=1 if self._blurred else 2)
                hidden = self._blur(hidden, layer)
            stride = 4 if layer == 0 and not self._blurred else 1
            name = self._names[layer]
            hidden = F.conv2d(
                hidden,
                self._weights[f"{name}.weight"],
                self._weights[f"{name}.bias"],
                stride=stride,
                padding=PADDING[layer],
            )
            if layer == 0:
                hidden = self._blur(hidden, layer)
            hidden = hidden.relu()
            yield hidden

    def _blur(self, hidden: Tensor, layer: int) -> Tensor:
        """Blurs each channel and keeps every second pixel; nothing in the plain network."""
        if not self._blurred:
            return hidden
        kernel = self._weights[f"{BLURS[layer]}.filt"]  # (C, 1, 3, 3)
        padded = F.pad(hidden, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, kernel, stride=2, groups=len(kernel))


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + TINY)

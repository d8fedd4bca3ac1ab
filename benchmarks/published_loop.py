"""The published protection loop, re-enacted from its description: the baseline that throughput is measured against.

One photo at a time: decode with Pillow, short side to 512, 512 x 512 centre crop, the reference network in eager fp32,
then a numbered PNG at Pillow's default compression. No published code and no published weights are used: weights are
random, which changes no cost. The network is `models.defender.Defender`, whose constants are folded already; that is
a little cheaper than the unfolded original, so ratios against this loop are on the low side.

B batch (1), S 512.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rid.models.budget import levels_to_signed
from rid.models.defender import SIZES, Defender

REFERENCE = "rid-512"
SEED = 0


@dataclass(frozen=True)
class PublishedPhoto:
    """The cost of one photo.

    Attributes:
        output: the file written.
        cpu_s: CPU-seconds from file to file.
        network_cpu_s: those of the network alone.
    """

    output: Path
    cpu_s: float
    network_cpu_s: float


class PublishedLoop:
    """Protects photos as the published script does; outputs are numbered by position."""

    def __init__(self, folder: Path, budget_levels: int, *, size: str = REFERENCE) -> None:
        """Builds the network.

        Args:
            folder: where the numbered outputs go.
            budget_levels: largest change of a value, in 8-bit levels.
            size: a key of `rid.models.defender.SIZES`.
        """
        self.folder = folder
        self.budget_levels = budget_levels
        self.defender = random_defender(size)

    @torch.no_grad()
    def protect(self, source: Path, number: int) -> PublishedPhoto:
        """Protects one file and returns where the result lies and what it cost."""
        began = process_time()
        image = read_image(source, self.defender.size.working_resolution)  # (B, 3, S, S)
        before_network = process_time()
        levels = self.defender(image, torch.tensor([float(self.budget_levels)]))  # (B, 3, S, S)
        network_cpu_s = process_time() - before_network
        output = self.folder / f"{number}.png"
        write_image(torch.clamp(image + levels_to_signed(levels), -1, 1), output)
        return PublishedPhoto(output, process_time() - began, network_cpu_s)


def random_defender(size: str) -> Defender:
    """Returns a seeded network whose gates and last layer are not zero, so that it outputs something."""
    torch.manual_seed(SEED)
    defender = Defender(SIZES[size])
    for name, parameter in defender.named_parameters():
        if "gate" in name or name == "linear.weight":
            nn.init.normal_(parameter, std=0.02)
    return defender.eval()


def read_image(source: Path, side: int) -> Tensor:
    """Returns the (1, 3, side, side) centre crop in [-1, 1]; the EXIF orientation is dropped, as published."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    width, height = picture.size
    if min(width, height) != side:
        scale = side / min(width, height)
        picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        width, height = picture.size
    left, top = (width - side) // 2, (height - side) // 2
    crop = np.array(picture.crop((left, top, left + side, top + side)), np.float32)  # (S, S, 3)
    return torch.from_numpy(crop / 127.5 - 1).permute(2, 0, 1).unsqueeze(0).contiguous()  # (B, 3, S, S)


def write_image(image: Tensor, output: Path) -> None:
    """Writes a (1, 3, S, S) image in [-1, 1] as a PNG at Pillow's default compression."""
    values = ((image[0] + 1) * 127.5).round().to(torch.uint8)  # (3, S, S)
    Image.fromarray(values.permute(1, 2, 0).contiguous().numpy()).save(output)

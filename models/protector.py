"""Protects one photo: uint8 in, protected uint8 out, in the file's own format, size and orientation.

H, W stored sides; S the defender's working resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from models.budget import check_budget
from models.engines import Engine
from models.images import decode
from models.photos import Encoding, Photo, PhotoRefused, Pixels
from models.policy import ProtectionPolicy
from models.quality import Survival, measure_survival, ssim
from models.resampling import enlarge, from_upright, place_windows, shrink, to_upright

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MIN_GAIN = 0.1  # below it a photo is never called protected, whatever the policy
DEAD_LEVELS = 1e-3  # a defender whose largest output is below this changes nothing
SATURATED_SHARE = 0.25

Perturbation = npt.NDArray[np.int8]


class ZeroPerturbation(RuntimeError):
    """The defender outputs nothing: protecting with it would publish unprotected photos under another name."""


class BudgetBroken(RuntimeError):
    """A written lossless file differs from its original by more than the budget."""


@dataclass(frozen=True)
class ProtectedPhoto:
    """A protected file and what was measured on it.

    Attributes:
        data: the file.
        format: JPEG, PNG, WEBP or TIFF.
        width: stored width.
        height: stored height.
        linf_levels: largest change of a value before encoding (for lossless formats, in the file), in 8-bit levels.
        survival_gain: share of the perturbation in the decoded file; 1 for lossless formats.
        survival_cosine: direction of the decoded difference against the perturbation; 1 for lossless formats.
        psnr: decoded output against decoded input, dB.
        ssim: the same on luma at short side 256.
        flags: keys of `models.photos.FLAGS`.
    """

    data: bytes
    format: str
    width: int
    height: int
    linf_levels: int
    survival_gain: float
    survival_cosine: float
    psnr: float
    ssim: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class _Written:
    data: bytes
    colour: Pixels
    survival: Survival
    flags: tuple[str, ...]


class Protector:
    """Applies one defender under one policy. The same photo always gives the same bytes."""

    def __init__(self, engine: Engine, policy: ProtectionPolicy, budget_levels: int) -> None:
        self.engine = engine
        self.policy = policy
        self.budget_levels = check_budget(budget_levels)

    def perturbation(self, photo: Photo) -> Perturbation:
        """Returns the perturbation of the stored pixels, before saturation.

        Returns:
            (H, W) int8 for a grey photo, else (H, W, 3), within plus and minus the budget.

        Raises:
            ZeroPerturbation: if the defender outputs nothing at all.
        """
        orientation = photo.header.orientation
        stored = colour_planes(photo.pixels)
        seen = to_upright(stored, orientation)
        small = shrink(np.ascontiguousarray(seen) if orientation != 1 else seen, self.engine.working_resolution)
        rgb = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB) if small.ndim == 2 else small  # (h, w, 3)
        windows = place_windows(rgb.shape[:2], self.engine.working_resolution, self.policy.window_overlap)
        squares = self.engine.perturb(windows.cut(rgb), float(self.budget_levels))  # (N, 3, S, S)
        levels = windows.join(squares, rgb.shape[:2])  # (h, w, 3)
        if not np.isfinite(levels).all() or np.abs(levels).max() < DEAD_LEVELS:
            raise ZeroPerturbation("the defender's output is zero or not a number: choose another defender")
        if stored.ndim == 2:
            levels = levels @ LUMA  # (h, w)
        stored_levels = np.ascontiguousarray(from_upright(levels, orientation))
        return enlarge(stored_levels, (photo.header.height, photo.header.width), self.budget_levels)

    def protect(self, data: bytes, name: str = "") -> ProtectedPhoto:
        """Decodes, perturbs and encodes one photo, and measures the result on the written file.

        Args:
            data: the file.
            name: its name, for the check of the suffix.

        Raises:
            PhotoRefused: if the photo is to be quarantined.
            ZeroPerturbation: if the defender outputs nothing at all.
            BudgetBroken: if a lossless file does not hold the budget.
        """
        return self.protect_decoded(decode(data, self.policy, name), len(data))

    def protect_decoded(self, photo: Photo, bytes_in: int) -> ProtectedPhoto:
        """The same for a photo that is decoded already; `bytes_in` is the size of its file."""
        before = colour_planes(photo.pixels)
        wanted = self.perturbation(photo)
        after: Pixels = cv2.add(before, wanted, dtype=cv2.CV_8U)  # saturates
        moved = cv2.subtract(after, before, dtype=cv2.CV_8S)
        if not moved.any():
            raise PhotoRefused(
                "protection_lost_in_encoding", "no pixel can move: the perturbation rounds to nothing here"
            )
        protected = with_colour(photo.pixels, after)
        written = self._encode(photo, before, protected, moved)
        linf = int(np.abs(moved).max())
        flags = [*photo.flags, *written.flags]
        if "chroma_raised" in written.flags or "quality_raised" in written.flags:
            flags.append(f"size_ratio:{len(written.data) / max(1, bytes_in):.2f}")
        if np.count_nonzero(moved) < (1 - SATURATED_SHARE) * np.count_nonzero(wanted):
            flags.append("saturated")
        return ProtectedPhoto(
            data=written.data,
            format=photo.header.format,
            width=photo.header.width,
            height=photo.header.height,
            linf_levels=linf,
            survival_gain=written.survival.gain,
            survival_cosine=written.survival.cosine,
            psnr=written.survival.psnr,
            ssim=ssim(before, written.colour),
            flags=tuple(dict.fromkeys(flags)),
        )

    def _encode(self, photo: Photo, before: Pixels, protected: Pixels, moved: Perturbation) -> _Written:
        """Writes like the original; a lossy file that keeps too little is written with more fidelity."""
        first = self._write(photo.encoding, protected, before, moved, ())
        if photo.encoding.lossless:
            self._check_budget(first, before, protected)
            return first
        least = max(self.policy.min_survival, MIN_GAIN)
        best = first
        if best.survival.gain >= least:
            return best
        for stronger in photo.encoding.stronger():
            best = self._write(stronger.encoding, protected, before, moved, stronger.flags)
            if best.survival.gain >= least:
                return best
        raise PhotoRefused(
            "protection_lost_in_encoding",
            f"the {photo.header.format} keeps {best.survival.gain:.2f} of the perturbation; the policy asks for {least:.2f}",
        )

    def _write(
        self, encoding: Encoding, protected: Pixels, before: Pixels, moved: Perturbation, flags: tuple[str, ...]
    ) -> _Written:
        data = encoding.write(protected)
        permissive = replace(self.policy, max_bytes=2**31 - 1, strict_names=False, palette="convert")
        colour = colour_planes(decode(data, permissive).pixels)
        return _Written(data, colour, measure_survival(before, colour, moved), flags)

    def _check_budget(self, written: _Written, before: Pixels, protected: Pixels) -> None:
        worst = int(cv2.absdiff(written.colour, before).max())
        if worst > self.budget_levels or not np.array_equal(written.colour, colour_planes(protected)):
            raise BudgetBroken(
                f"a lossless file differs by {worst} levels from its original; {self.budget_levels} are allowed"
            )


def colour_planes(pixels: Pixels) -> Pixels:
    """Returns the values that may move: (H, W) of a grey photo, (H, W, 3) of a colour one, without alpha."""
    if pixels.ndim == 2:
        return pixels
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 2 else pixels[:, :, :3])


def with_colour(pixels: Pixels, colour: Pixels) -> Pixels:
    """Returns `pixels` with its colour values replaced and its alpha, if any, untouched."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return colour
    alpha = pixels[:, :, -1:]
    return np.concatenate([colour if colour.ndim == 3 else colour[:, :, None], alpha], axis=2)

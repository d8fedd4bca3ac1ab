"""Protects one photo: uint8 in, protected uint8 out, in the file's own format, size and orientation.

H, W stored sides; S the side of the defender's squares; h, w the sides of what its network sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from rid.models.budget import check_budget
from rid.models.engines import Engine
from rid.models.photo_files.images import decode, read_header
from rid.models.photo_files.marks import MARK_NAMESPACE, AlreadyProtected, Mark, held_mark, pixels_sha256, with_mark
from rid.models.photo_files.photos import Photo, PhotoRefused, Pixels, Stronger
from rid.models.photo_files.quality import Survival, largest_difference, measure_survival, squared_distance, ssim
from rid.models.photo_files.resampling import (
    Levels,
    Perturbation,
    add_saturating,
    as_signed,
    enlarge,
    from_upright,
    mirrored_to,
    place_windows,
    shrink,
    to_upright,
)
from rid.models.photo_files.smooth_areas import smooth_change
from rid.models.photo_files.xmp import UnreadablePacket
from rid.models.policy import PILLOW_BOMB_PIXELS, ProtectionPolicy

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MIN_GAIN = 0.1  # below it a photo is never called protected, whatever the policy
DEAD_LEVELS = 1e-3  # a defender whose largest output is below this changes nothing
READ_BACK = ProtectionPolicy(max_bytes=2**31 - 1, max_pixels=2 * PILLOW_BOMB_PIXELS, max_side=65_500, min_side=1)
LONGEST = 4  # short sides; a longer picture goes through a network for any size in squares
BLANK_LEVELS = 2  # a photo that varies no more than this has no texture
SATURATED_SHARE = 0.25  # of the perturbation's energy; above it the photo is flagged


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
        smooth_levels: low-passed change, before encoding, of the worst smooth area; see `photo_files.smooth_areas`.
        visible_share: share of the smooth area where that is seen.
        flags: keys of `rid.models.photo_files.photos.FLAGS`.
        pixels_sha256: of the decoded pixels, if the file holds a mark; see `photo_files.marks.pixels_sha256`.
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
    smooth_levels: float
    visible_share: float
    flags: tuple[str, ...]
    pixels_sha256: str | None = None


@dataclass(frozen=True)
class _Written:
    """A file, and what it decodes to.

    Attributes:
        how: its encoding.
        coded: the picture in it, without metadata.
        data: the file, with the XMP packet of the original.
        result: what the file decodes to.
        colour: the values of that which may move.
        survival: how it differs from the original.
    """

    how: Stronger
    coded: bytes
    data: bytes
    result: Photo
    colour: Pixels
    survival: Survival


@dataclass(frozen=True)
class _Marked:
    """A file with its mark, the flags for what could not be written, and the digest that the mark holds."""

    data: bytes
    flags: tuple[str, ...]
    pixels_sha256: str | None


class Protector:
    """Applies one defender under one policy. The same photo always gives the same bytes."""

    def __init__(
        self, engine: Engine, policy: ProtectionPolicy, budget_levels: int, defender_digest: str | None = None
    ) -> None:
        """Holds what decides the bytes of a protected photo.

        Args:
            engine: computes perturbations.
            policy: the policy.
            budget_levels: the budget, in 8-bit levels.
            defender_digest: what a mark says of the defender; without one, no marks are written.
        """
        self.engine = engine
        self.policy = policy
        self.budget_levels = check_budget(budget_levels)
        self.defender_digest = defender_digest

    def perturbation(self, photo: Photo) -> Perturbation:
        """Returns the perturbation of the stored pixels, before saturation.

        A colour photo whose channels are all equal is treated as grey and stays without colour.

        Returns:
            (H, W) int8 for a grey photo, else (H, W, 3), within plus and minus the budget.

        Raises:
            PhotoRefused: if the photo is blank and the network follows a photo's texture.
            ZeroPerturbation: if the defender outputs nothing at all.
        """
        stored = colour_planes(photo.pixels)
        neutral = stored.ndim == 3 and is_neutral(stored)
        orientation, side = photo.header.orientation, self.engine.working_resolution
        if self.engine.multiple:
            side = min(side, *stored.shape[:2])  # smaller photos are seen as they are
        small = to_upright(shrink(stored, side), orientation)
        rgb = cv2.cvtColor(np.ascontiguousarray(small), cv2.COLOR_GRAY2RGB) if small.ndim == 2 else small  # (h, w, 3)
        levels = self._any_size(rgb) if self.engine.multiple else self._windowed(rgb, side)  # (h, w, 3)
        largest = max(float(levels.max()), -float(levels.min()))
        if largest < DEAD_LEVELS and self.engine.multiple and is_blank(rgb):
            raise PhotoRefused(
                "protection_lost_in_encoding", "the photo is one even surface: there is nothing to follow"
            )
        if not DEAD_LEVELS <= largest < math.inf:  # not a number is neither
            raise ZeroPerturbation("the defender's output is zero or not a number: choose another defender")
        if neutral or stored.ndim == 2:
            levels = levels @ LUMA  # (h, w)
        turned = np.ascontiguousarray(from_upright(levels, orientation))
        native = enlarge(turned, (photo.header.height, photo.header.width), self.budget_levels)
        return cv2.merge([native] * 3) if neutral else native

    def _any_size(self, rgb: Pixels) -> Levels:
        """Returns the (h, w, 3) levels of a network for any size.

        It sees a picture at once, unless that is a strip: a network's memory grows with what it sees, and a policy that
        allows 65,500 pixels allows a strip of them.
        """
        height, width = rgb.shape[:2]
        picture = mirrored_to(rgb, self.engine.multiple)  # (h', w', 3)
        if max(height, width) > LONGEST * min(height, width):
            return self._windowed(picture, min(picture.shape[:2]))[:height, :width]
        levels = self.engine.perturb(as_signed([picture]), float(self.budget_levels))[0]  # (3, h', w')
        return np.ascontiguousarray(levels[:, :height, :width].transpose(1, 2, 0))

    def _windowed(self, rgb: Pixels, side: int) -> Levels:
        """Returns (h, w, 3) levels, blended from those of overlapping squares; the short side is `side`."""
        windows = place_windows(rgb.shape[:2], side, self.policy.window_overlap)
        squares = self.engine.perturb(windows.cut(rgb), float(self.budget_levels))  # (N, 3, S, S)
        return windows.join(squares, rgb.shape[:2])

    def protect(self, data: bytes, name: str = "", *, known_mark: bool = False) -> ProtectedPhoto:
        """Decodes, perturbs and encodes one photo, and measures the result on the written file.

        Args:
            data: the file.
            name: its name, for the check of the suffix.
            known_mark: whether a receipt bears out the mark that the photo has, or marks are trusted.

        Raises:
            PhotoRefused: if the photo is to be quarantined.
            AlreadyProtected: if its known mark holds: it is to be published as it is.
            ZeroPerturbation: if the defender outputs nothing at all.
            BudgetBroken: if a lossless file does not hold the budget.
        """
        photo = decode(data, self.policy, name)
        mark = held_mark(photo) if known_mark else None
        if mark is not None:
            raise AlreadyProtected(mark, photo.header.format)
        return self.protect_decoded(photo, len(data))

    def protect_decoded(self, photo: Photo, bytes_in: int) -> ProtectedPhoto:
        """The same for a photo that is decoded already; `bytes_in` is the size of its file."""
        before = colour_planes(photo.pixels)
        wanted = self.perturbation(photo)
        perturbed = add_saturating(before, wanted)
        stored = squared_distance(perturbed, before) / max(1.0, float(cv2.norm(wanted, cv2.NORM_L2SQR)))
        if stored < MIN_GAIN:
            raise PhotoRefused(
                "protection_lost_in_encoding",
                f"{stored:.2f} of the perturbation can be stored: it rounds to nothing, or pixels are black or white",
            )
        written = self._encode(photo, before, perturbed)
        marked = self._mark(photo, written)
        flags = [*photo.flags, *written.how.flags, *marked.flags]
        if "chroma_raised" in flags or "quality_raised" in flags:
            flags.append(f"size_ratio:{len(marked.data) / max(1, bytes_in):.2f}")
        if stored < 1 - SATURATED_SHARE:
            flags.append("saturated")
        smooth = smooth_change(before, perturbed)
        return ProtectedPhoto(
            data=marked.data,
            format=photo.header.format,
            width=photo.header.width,
            height=photo.header.height,
            linf_levels=largest_difference(perturbed, before),
            survival_gain=written.survival.gain,
            survival_cosine=written.survival.cosine,
            psnr=written.survival.psnr,
            ssim=ssim(before, written.colour),
            smooth_levels=smooth.worst_levels,
            visible_share=smooth.visible_share,
            flags=tuple(dict.fromkeys(flags)),
            pixels_sha256=marked.pixels_sha256,
        )

    def _encode(self, photo: Photo, before: Pixels, perturbed: Pixels) -> _Written:
        """Writes like the original; a lossy file that keeps too little is written with more fidelity."""
        pixels = with_colour(photo.pixels, perturbed)
        written = self._write(Stronger(photo.encoding, ()), photo, pixels, perturbed)
        if photo.encoding.lossless:
            self._check_budget(written, before, perturbed)
            return written
        least = max(self.policy.min_survival, MIN_GAIN)
        ladder = photo.encoding.stronger()
        while written.survival.gain < least:
            stronger = next(ladder, None)
            if stronger is None:
                raise PhotoRefused(
                    "protection_lost_in_encoding",
                    f"the {photo.header.format} keeps {written.survival.gain:.2f} of the perturbation; "
                    f"the policy asks for {least:.2f}",
                )
            written = self._write(stronger, photo, pixels, perturbed)
        return written

    def _write(self, how: Stronger, photo: Photo, pixels: Pixels, perturbed: Pixels) -> _Written:
        """Encodes, decodes what was written, and compares."""
        coded = how.encoding.code(pixels)
        data = how.encoding.finish(coded, photo.xmp)
        result = decode(data, READ_BACK)
        if (result.pixels.shape, result.header.orientation) != (pixels.shape, photo.header.orientation):
            raise BudgetBroken(
                f"a written {photo.header.format} has another size, mode or orientation than its original"
            )
        if (
            pixels.ndim == 3
            and pixels.shape[2] in (2, 4)
            and not np.array_equal(result.pixels[..., -1], pixels[..., -1])
        ):
            raise BudgetBroken(f"a written {photo.header.format} has another alpha channel than its original")
        colour = colour_planes(result.pixels)
        survival = measure_survival(colour_planes(photo.pixels), perturbed, colour)
        return _Written(how, coded, data, result, colour, survival)

    def _mark(self, photo: Photo, written: _Written) -> _Marked:
        """Writes the mark, and the word on data mining; the coded picture, which was checked, stays as it is."""
        mark, word = None, self.policy.data_mining
        if self.policy.mark and self.defender_digest is not None:
            mark = Mark(self.defender_digest, self.budget_levels, pixels_sha256(written.result.pixels))
        packet = photo.xmp
        kept: tuple[Mark | None, str | None] = (None, None)
        for attempt in dict.fromkeys(((mark, word), (None, word), kept)):  # an old mark goes in any case
            try:
                changed = with_mark(photo.xmp, *attempt, elsewhere=photo.xmp_extension)
            except UnreadablePacket:
                break
            if len(changed) <= photo.encoding.max_xmp:
                packet, kept = changed, attempt
                break
        flags = ["mark_replaced"] * (MARK_NAMESPACE.encode() in photo.xmp)
        flags += ["mark_left_out"] * (kept[0] != mark) + ["data_mining_left_out"] * (kept[1] != word)
        data = written.data if packet == photo.xmp else photo.encoding.finish(written.coded, packet)
        if read_header(data, READ_BACK) != written.result.header:
            raise BudgetBroken(f"a written {photo.header.format} has another header with its mark than without")
        return _Marked(data, tuple(flags), kept[0].pixels_sha256 if kept[0] else None)

    def _check_budget(self, written: _Written, before: Pixels, perturbed: Pixels) -> None:
        worst = largest_difference(written.colour, before)
        if worst > self.budget_levels or largest_difference(written.colour, perturbed):
            raise BudgetBroken(
                f"a lossless file differs by {worst} levels from its original; {self.budget_levels} are allowed"
            )


def is_blank(rgb: Pixels) -> bool:
    """Returns whether no channel of (h, w, 3) pixels varies by more than BLANK_LEVELS."""
    return bool(np.ptp(rgb, axis=(0, 1)).max() <= BLANK_LEVELS)


def is_neutral(colour: Pixels) -> bool:
    """Returns whether (H, W, 3) pixels hold no colour: all three channels equal."""
    sample = colour[:: max(1, len(colour) // 8)]
    if not np.array_equal(sample[..., 0], sample[..., 1]):
        return False
    return bool(np.array_equal(colour[..., 0], colour[..., 1]) and np.array_equal(colour[..., 1], colour[..., 2]))


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

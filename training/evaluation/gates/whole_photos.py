"""Photos protected whole, by the code of `rid protect`, as an attacker sees them at one side.

H, W sides of a whole photo; N photos, B of them in a part; S the attacker's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rid.models.photo_files.photos import PhotoRefused
from rid.models.protector import Protector
from rid.models.upright_photos import upright_rgb
from rid.training.evaluation.attackers.subtraction import subtract
from rid.training.evaluation.attackers.views import AS_IS, VIEWS, view
from rid.training.evaluation.effect.controls import (
    fixed_pattern_control,
    gaussian_control,
    stranger_control,
    stripes_control,
)
from rid.training.evaluation.effect.latent_displacement import Yardstick, encode_pixels
from rid.training.evaluation.judges.identity import Face

NOISE, STRIPES, FIXED, STRANGERS = "noise", "stripes", "fixed pattern", "another's"
CONTROLS = (NOISE, STRIPES, FIXED, STRANGERS)
SUBTRACTED = "blind subtraction"
ROWS = (*VIEWS, SUBTRACTED, *CONTROLS)
GATE_ROWS = (AS_IS, SUBTRACTED, NOISE, FIXED, STRANGERS)
COLUMNS = 2**16  # values of each photo that are multiplied at a time
Pixels = NDArray[np.uint8]


def scaled_file(data: bytes, side: int) -> bytes:
    """Returns a photo, scaled so that its short side is `side`, as a PNG file.

    Raises:
        ValueError: if the photo cannot be decoded.
    """
    photo = upright_rgb(data)
    if photo is None:
        raise ValueError("a photo to measure on cannot be decoded: leave it out")
    scale = side / min(photo.shape[:2])
    size = tuple(max(side, round(scale * edge)) for edge in photo.shape[1::-1])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = photo if scale == 1 else cv2.resize(photo, size, interpolation=kind)
    return bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1])


def noise_like(clean: Pixels, protected: Pixels, seed: int) -> Pixels:
    """Returns the (S, S, 3) clean photo with Gaussian noise as large as its protection."""
    noisy: Pixels = (clean + gaussian_control(clean, protected.astype(np.int16) - clean, seed)).astype(np.uint8)
    return noisy


def protect_whole(files: Sequence[bytes], protector: Protector) -> list[Pixels]:
    """Returns the upright pictures, (H, W, 3) each, of what the command would publish of some files.

    Raises:
        ValueError: if a photo is refused, with the reason.
    """
    protected = []
    for number, data in enumerate(files):
        try:
            picture = upright_rgb(protector.protect(data).data)
        except PhotoRefused as refused:
            raise ValueError(
                f"photo {number} cannot be protected ({refused}): leave it out of the measurement"
            ) from None
        assert picture is not None
        protected.append(picture)
    return protected


class CleanPhotos:
    """Photos as they came, seen by the attacker at one side; latents of the part in work are kept."""

    def __init__(
        self,
        whole: Sequence[Pixels],
        side: int,
        people: Sequence[str] | None = None,
        faces: Sequence[Face | None] | None = None,
    ) -> None:
        """Holds the photos.

        Args:
            whole: N upright (H, W, 3) photos.
            side: S.
            people: who is on each; without it everybody is another person.
            faces: where the face is on each, as far as a detector has found one.
        """
        self.whole, self.side = whole, side
        self.people = tuple(people) if people is not None else tuple(str(number) for number in range(len(whole)))
        self.faces = tuple(faces) if faces is not None else (None,) * len(whole)
        if not len(self.whole) == len(self.people) == len(self.faces):
            raise ValueError(f"{len(whole)} photos, {len(self.people)} people and {len(self.faces)} faces do not match")
        if len(set(self.people)) < 2:
            raise ValueError("photos of at least two people are needed: others' perturbations are among the controls")
        self.as_is = self.seen(whole, AS_IS, range(len(whole)))
        self._latents: dict[tuple[str, str], Tensor] = {}
        self._part = range(0)

    def __len__(self) -> int:
        return len(self.whole)

    def seen(self, whole: Sequence[Pixels], name: str, part: range) -> Pixels:
        """Returns a part of these photos, or of changed ones, in a view: (B, S, S, 3)."""
        return np.stack([view(whole[index], name, self.side, self.faces[index]) for index in part])

    def latents(self, ruler: Yardstick, name: str, part: range) -> Tensor:
        """Returns the (B, C, h, w) latents of a part in a view."""
        if part != self._part:
            self._latents, self._part = {}, part
        key = ruler.space.digest, name
        if key not in self._latents:
            pixels = self.as_is[part.start : part.stop] if name == AS_IS else self.seen(self.whole, name, part)
            self._latents[key] = encode_pixels(ruler.space, pixels)
        return self._latents[key]


class ProtectedPhotos:
    """The same photos, protected whole, and what the attacker makes of them."""

    def __init__(self, clean: CleanPhotos, whole: Sequence[Pixels]) -> None:
        """Holds the photos; `whole` are N upright (H, W, 3) pictures."""
        self.clean, self.whole = clean, whole
        as_is = clean.seen(whole, AS_IS, range(len(whole)))
        self.changes = as_is.astype(np.int16) - clean.as_is  # (N, S, S, 3)
        self._people = {
            person: np.array([other == person for other in clean.people]) for person in dict.fromkeys(clean.people)
        }
        self._sums = {person: self.changes[rows].sum(axis=0, dtype=np.int32) for person, rows in self._people.items()}
        self._sum = np.sum(list(self._sums.values()), axis=0)  # (S, S, 3)

    def mean_of_others(self, index: int) -> NDArray[np.float64]:
        """Returns the (S, S, 3) mean perturbation of the photos of other people."""
        person = self.clean.people[index]
        count = len(self.clean) - int(self._people[person].sum())
        mean: NDArray[np.float64] = (self._sum - self._sums[person]) / count
        return mean

    def stranger(self, index: int) -> int:
        """Returns the place of a photo of another person."""
        count = len(self.clean)
        offsets = (index + count // 2 + step for step in range(count))
        return next(other % count for other in offsets if self.clean.people[other % count] != self.clean.people[index])

    @cached_property
    def cosine_matrix(self) -> NDArray[np.float64]:
        """(N, N) cosines between the perturbations of the photos."""
        flat = self.changes.reshape(len(self.changes), -1)
        products = np.zeros((len(flat), len(flat)))
        for start in range(0, flat.shape[1], COLUMNS):
            block = flat[:, start : start + COLUMNS].astype(np.float64)
            products += block @ block.T
        norms = np.maximum(np.sqrt(np.diag(products)), 1e-9)
        matrix: NDArray[np.float64] = products / np.outer(norms, norms)
        return matrix

    def cosines(self) -> NDArray[np.float64]:
        """Returns each photo's mean cosine of its perturbation with those of all other photos, (N,)."""
        count = len(self.changes)
        found: NDArray[np.float64] = (self.cosine_matrix.sum(axis=1) - np.diag(self.cosine_matrix)) / (count - 1)
        return found

    def common_share(self) -> float:
        """Returns the share of the perturbations' energy in the one direction that they have most in common.

        A stencil that is added to some photos and subtracted from others has a mean cosine of 0, and a share of 1. N
        perturbations that have nothing in common have a share of about 1 / N.
        """
        return float(np.linalg.eigvalsh(self.cosine_matrix)[-1] / len(self.changes))

    def seen(self, row: str, part: range, seed: int) -> Pixels:
        """Returns a part of the photos as a row of the table has them, (B, S, S, 3).

        Args:
            row: one of ROWS.
            part: which photos.
            seed: of what is drawn; a photo's draws depend on its place.
        """
        if row in VIEWS:
            return self.clean.seen(self.whole, row, part)
        return np.stack([self._control(row, index, seed + index) for index in part])

    def _control(self, row: str, index: int, seed: int) -> Pixels:
        clean, change = self.clean.as_is[index], self.changes[index]
        if row == SUBTRACTED:
            return subtract((clean + change).astype(np.uint8), self.mean_of_others(index))
        if row == NOISE:
            moved = gaussian_control(clean, change, seed)
        elif row == STRIPES:
            moved = stripes_control(clean, change, seed)
        elif row == FIXED:
            moved = fixed_pattern_control(clean, change, self.mean_of_others(index), seed)
        elif row == STRANGERS:
            moved = stranger_control(clean, change, self.changes[self.stranger(index)], seed)
        else:
            raise ValueError(f"row {row!r} is unknown: one of {', '.join(ROWS)}")
        changed: Pixels = (clean + moved).astype(np.uint8)
        return changed

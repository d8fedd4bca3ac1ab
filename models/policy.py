"""The policy: all that decides the bytes of a protected photo beside the photo and the defender."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Literal

from rid.models.budget import check_budget
from rid.models.data_mining import RISING

PILLOW_BOMB_PIXELS = 89_478_485  # above it Pillow warns of a decompression bomb, above twice that it refuses
PALETTES = ("convert", "quarantine")
# What bounds a run and decides no bytes: not part of the digest.
RUN_LIMITS = ("max_quarantined_share", "max_quarantined", "photo_seconds", "photo_memory", "max_visible_share")


@dataclass(frozen=True)
class ProtectionPolicy:
    """Settings of protection; equal policies give equal bytes of what is protected.

    Attributes:
        budget_levels: largest change of a stored value, 1 to 16 of 255 levels; None: the defender's default.
        min_survival: smallest share of the perturbation that must come through a lossy encoding, 0.1 to 1.
        window_overlap: share of a window that its neighbour also covers, at least, 0 to 0.75.
        max_bytes: a larger file is refused as `too_large`.
        max_pixels: a photo with more pixels is refused as `too_many_pixels`.
        max_side: a photo with a longer side, in pixels, is refused as `too_many_pixels`.
        min_side: a photo with a shorter side, in pixels, is refused as `too_small`.
        palette: "convert" writes palette pictures as true colour and flags them, "quarantine" refuses them.
        strict_names: refuse a file whose suffix names another format than its content, instead of flagging it.
        mark: write a mark of the protection into the photo's XMP.
        trust_marks: skip a photo whose mark fits its pixels, even if no known receipt bears it out.
        data_mining: a PLUS DataMining entry to write into the photo's XMP, which never loosens what its owner set;
            null writes none.
        max_quarantined_share: failure budget: a run stops when a larger share of its photos is quarantined, once
            there are `max_quarantined` of them; it decides no bytes and is not part of the digest.
        max_quarantined: quarantined photos that never stop a run.
        photo_seconds: deadline: a photo whose protection takes longer is quarantined as `deadline`. Like the next one
            it holds where photos are protected in worker processes, and is not part of the digest.
        photo_memory: bytes that one photo may need, beside the defender (on Linux); above it is `out_of_memory`.
        max_visible_share: the check of the look warns if protection is seen in a larger share of the median photo's
            smooth areas, such as skies and cheeks; it decides no bytes and is not part of the digest.
    """

    budget_levels: int | None = None
    min_survival: float = 0.6
    window_overlap: float = 0.25
    max_bytes: int = 256 * 2**20
    max_pixels: int = PILLOW_BOMB_PIXELS
    max_side: int = 30_000
    min_side: int = 32
    palette: Literal["convert", "quarantine"] = "convert"
    strict_names: bool = False
    mark: bool = True
    trust_marks: bool = False
    data_mining: str | None = None
    max_quarantined_share: float = 0.25
    max_quarantined: int = 50
    photo_seconds: float = 120.0
    photo_memory: int = 4 * 2**30
    max_visible_share: float = 0.1

    def __post_init__(self) -> None:
        if self.budget_levels is not None:
            check_budget(self.budget_levels)
        _check_number("min_survival", self.min_survival, 0.1, 1.0)
        _check_number("window_overlap", self.window_overlap, 0.0, 0.75)
        _check_whole("max_bytes", self.max_bytes, 1, 2**31 - 1)
        _check_whole("max_pixels", self.max_pixels, 1, 2 * PILLOW_BOMB_PIXELS)
        _check_whole("max_side", self.max_side, 1, 65_500)
        _check_whole("min_side", self.min_side, 1, 65_500)
        _check_number("max_quarantined_share", self.max_quarantined_share, 0.0, 1.0)
        _check_whole("max_quarantined", self.max_quarantined, 0, 10**9)
        _check_number("photo_seconds", self.photo_seconds, 0.1, 86_400)
        _check_whole("photo_memory", self.photo_memory, 2**25, 2**40)
        _check_number("max_visible_share", self.max_visible_share, 0.0, 1.0)
        if self.palette not in PALETTES:
            raise ValueError(f"policy palette {self.palette!r} is not allowed: give one of {', '.join(PALETTES)}")
        for name in ("strict_names", "mark", "trust_marks"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"policy {name} {getattr(self, name)!r} is not allowed: give true or false")
        if self.data_mining is not None and self.data_mining not in RISING:
            raise ValueError(
                f"policy data_mining {self.data_mining!r} is not allowed: give null or one of {', '.join(RISING)}"
            )

    def to_json(self) -> str:
        """Returns the canonical JSON: every field, sorted, no spaces."""
        values = asdict(self)
        values["min_survival"] = float(self.min_survival)
        values["window_overlap"] = float(self.window_overlap)
        values["max_quarantined_share"] = float(self.max_quarantined_share)
        values["photo_seconds"] = float(self.photo_seconds)
        values["max_visible_share"] = float(self.max_visible_share)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON of what decides bytes, in hexadecimal."""
        values = json.loads(self.to_json())
        for name in RUN_LIMITS:
            del values[name]
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> ProtectionPolicy:
        """Reads a policy file: a JSON object whose fields are all optional.

        Raises:
            ValueError: with one sentence, if it is no JSON object, a field is unknown or a value not allowed.
        """
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"the policy is not valid JSON ({error}): give an object such as {{}}") from error
        if not isinstance(values, dict):
            raise ValueError(f"the policy is a JSON {type(values).__name__}: give an object such as {{}}")
        allowed = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(allowed))
        if unknown:
            raise ValueError(
                f"the policy has an unknown field {unknown[0]!r}: allowed are {', '.join(sorted(allowed))}"
            )
        return cls(**values)


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"policy {name} {value!r} is not allowed: give a number from {low:g} to {high:g}")


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"policy {name} {value!r} is not allowed: give a whole number from {low} to {high}")


# Admits what any policy admits: to read again what was protected under one.
READ_ALL = ProtectionPolicy(max_bytes=2**31 - 1, max_pixels=2 * PILLOW_BOMB_PIXELS, max_side=65_500, min_side=1)

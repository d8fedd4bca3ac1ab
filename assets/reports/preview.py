"""One photo at several strengths beside each other, to look at before anyone commits to one."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.assets.reports.pictures import amplification
from rid.models.photo_files.photos import PhotoRefused
from rid.models.protector import ProtectedPhoto, Protector
from rid.models.upright_photos import upright_rgb

TILE, GAP, CAPTION = 420, 12, 56  # pixels
TEXT, SMALL = 20, 15  # heights of letters
INK, PAPER = (34, 48, 60), (255, 255, 255)
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Strength:
    """One photo under one budget.

    Attributes:
        budget_levels: the budget.
        photo: what was made of it, or None.
        refusal: why nothing was made of it.
    """

    budget_levels: int
    photo: ProtectedPhoto | None
    refusal: str = ""


def strengths(data: bytes, name: str, levels: Sequence[int], protector: Callable[[int], Protector]) -> list[Strength]:
    """Protects a photo under each budget, as a run would.

    Args:
        data: the file.
        name: its name.
        levels: budgets, in 8-bit levels.
        protector: makes the protector of a budget.
    """
    found = []
    for budget in levels:
        try:
            found.append(Strength(budget, protector(budget).protect(data, name)))
        except PhotoRefused as refusal:
            found.append(Strength(budget, None, str(refusal)))
    return found


def preview(data: bytes, made: Sequence[Strength]) -> bytes:
    """Returns a PNG: a column a strength; the photo, a detail at full size, and the change of that, amplified.

    Args:
        data: the photo as it came.
        made: what was made of it.

    Raises:
        ValueError: if the photo cannot be decoded.
    """
    clean = upright_rgb(data)
    if clean is None:
        raise ValueError("the photo cannot be decoded")
    factor = amplification(max(strength.budget_levels for strength in made))
    columns = [_column("as it came", f"change x {factor} below", clean, clean, factor)]
    for strength in made:
        budget = f"{strength.budget_levels} of 255 levels"
        if strength.photo is None:
            columns.append(_column(budget, strength.refusal[:52], None, clean, factor))
            continue
        photo = strength.photo
        measured = f"PSNR {photo.psnr:.1f} dB, SSIM {photo.ssim:.3f}, {len(photo.data) / max(1, len(data)):.2f} x size"
        columns.append(_column(budget, measured, upright_rgb(photo.data), clean, factor))
    gap = np.full((columns[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [gap] + [part for column in columns for part in (column, gap)]
    return _png(np.concatenate(parts, axis=1))


def _column(title: str, measured: str, shown: Picture | None, clean: Picture, factor: int) -> Picture:
    """One column, (H, TILE, 3)."""
    detail = _detail(clean)
    if shown is None:
        rows = [np.full_like(_fitted(clean), 235), np.full_like(detail, 235), np.full_like(detail, 235)]
    else:
        change = _detail(shown).astype(np.int16) - detail
        amplified = np.clip(change * factor + 128, 0, 255).astype(np.uint8)
        rows = [_fitted(shown), _detail(shown), amplified]
    padded = [cv2.copyMakeBorder(row, 0, GAP, 0, TILE - row.shape[1], cv2.BORDER_CONSTANT, value=PAPER) for row in rows]
    return np.concatenate([_caption(title, measured), *padded])


def _fitted(picture: Picture) -> Picture:
    """The whole picture, as wide as a column if it is not smaller."""
    height, width = picture.shape[:2]
    if width <= TILE:
        return picture
    fitted: Picture = cv2.resize(picture, (TILE, max(1, round(height * TILE / width))), interpolation=cv2.INTER_AREA)
    return fitted


def _detail(picture: Picture) -> Picture:
    """The middle of the upper half, where a portrait has its face, not resized."""
    height, width = picture.shape[:2]
    side_y, side_x = min(TILE, height), min(TILE, width)
    top, left = (height - side_y) // 4, (width - side_x) // 2
    return np.ascontiguousarray(picture[top : top + side_y, left : left + side_x])


def _caption(title: str, measured: str) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    band = Image.new("RGB", (TILE, CAPTION), PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((0, 6), title, INK, font=ImageFont.load_default(TEXT))
    draw.text((0, 32), measured, INK, font=ImageFont.load_default(SMALL))
    return np.asarray(band)


def _png(picture: Picture) -> bytes:
    """Lossless, so that nothing is added to what is to be judged."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=6)
    return out.getvalue()

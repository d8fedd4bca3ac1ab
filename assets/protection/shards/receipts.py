"""The receipts that a photo can get: held back until something is published, then skipped or protected."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rid.models.photo_files.marks import AlreadyProtected
from rid.models.protector import ProtectedPhoto
from rid.resources.records import Receipt
from rid.resources.schemas import Reason, Status

NO_ENGINE = "none"  # what protected a photo that is held back unseen, or published as it came


def held_back(receipt: Receipt, reason: str, detail: str) -> Receipt:
    """Returns the receipt of a photo that is quarantined."""
    return replace(receipt, status=Status.QUARANTINED.value, reason=str(reason), detail=detail)


def skipped(receipt: Receipt, held: AlreadyProtected, data: bytes, *, trusted: bool) -> Receipt:
    """Returns the receipt of a photo that is carried along as it came.

    Args:
        receipt: what is known of it.
        held: its mark, which holds.
        data: its bytes.
        trusted: whether no receipt bears the mark out, but the policy trusts it.
    """
    return replace(
        receipt,
        status=Status.SKIPPED.value,
        reason=Reason.ALREADY_PROTECTED.value,
        detail=f"by defender {held.mark.defender_digest[:12]} at a budget of {held.mark.budget_levels} levels",
        flags=("mark_trusted",) if trusted else (),
        format=held.format,
        bytes_out=len(data),
        output_sha256=receipt.input_sha256,
        pixels_sha256=held.mark.pixels_sha256,
        engine=NO_ENGINE,
    )


def protected(receipt: Receipt, result: ProtectedPhoto) -> Receipt:
    """Returns the receipt of a photo that was protected."""
    return replace(
        receipt,
        status=Status.PROTECTED.value,
        flags=result.flags,
        format=result.format,
        bytes_out=len(result.data),
        output_sha256=hashlib.sha256(result.data).hexdigest(),
        pixels_sha256=result.pixels_sha256,
        linf_levels=result.linf_levels,
        survival_gain=result.survival_gain,
        survival_cosine=result.survival_cosine,
        psnr=result.psnr,
        ssim=result.ssim,
        smooth_levels=result.smooth_levels,
        visible_share=result.visible_share,
    )

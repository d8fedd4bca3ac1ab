"""Where a run computes and in which type: one process on a CPU or a GPU, or one process a GPU under `accelerate`."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from rid.training.config import Precision


def training_accelerator(device: str = "auto") -> Accelerator:
    """Returns the accelerator of this process.

    Under `accelerate launch` there is one process a device and gradients are averaged over them; otherwise this is the
    only one. Autocast is this project's own (`autocast_type`), since a machine's accelerate settings are not part of
    a run's configuration.

    Args:
        device: "auto" is CUDA if there is any; "cpu" and "cuda" insist.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r} is unknown: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for and torch finds none: use auto or cpu")
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available(), mixed_precision="no")


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Returns the context in which a training computes: bfloat16 products, or float32 as it is."""
    wanted = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 products; a CPU that emulates them is forty times slower than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))

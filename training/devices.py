"""Device and number type of a run: one process on a CPU or a GPU, or one process a GPU under `accelerate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from rid.models.frozen_diffusion import FrozenDiffusion
from rid.training.config import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    from accelerate import Accelerator

    check_device(device)
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available(), mixed_precision="no")


def check_device(device: str) -> None:
    """Checks a device that was asked for.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r} is unknown: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for and torch finds none: use auto or cpu")


@dataclass(frozen=True)
class Numerics:
    """The types that a training computes in.

    Attributes:
        autocast: whether products of the defender and of the losses are bfloat16.
        half_denoisers: whether the weights of frozen U-Nets are kept in bfloat16; autoencoders stay in float32, since
            latents at small time steps are lost in less.
        tf32: whether products of float32 may round their factors to TF32.
    """

    autocast: bool
    half_denoisers: bool
    tf32: bool


def choose_numerics(precision: Precision, device_type: str, has_bfloat16: bool) -> Numerics:
    """Returns the types of a run.

    A CPU keeps its weights as they are. A GPU that multiplies bfloat16 does so unless float32 is asked for, which is
    exact float32 there too; an older one computes in TF32, or what it makes of it.

    Args:
        precision: of the configuration.
        device_type: "cpu" or "cuda".
        has_bfloat16: whether the device multiplies bfloat16.
    """
    half = precision == "bfloat16" or (precision == "auto" and has_bfloat16)
    on_gpu = device_type == "cuda"
    return Numerics(autocast=half, half_denoisers=half and on_gpu, tf32=on_gpu and precision != "float32")


def device_numerics(precision: Precision, device: torch.device) -> Numerics:
    """Returns the types of a run on a device of this machine."""
    return choose_numerics(precision, device.type, precision == "auto" and multiplies_bfloat16(device))


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Returns the context in which a training computes: bfloat16 products, or float32 as it is."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device_numerics(precision, device).autocast)


def teacher_autocast(device: torch.device) -> torch.autocast:
    """Returns the context in which a teacher computes: bfloat16 products on a GPU that has them.

    It holds one forward pass: autocast keeps the copies it made of weights until it is left, and a surrogate's change.
    """
    enabled = device.type == "cuda" and device_numerics("auto", device).autocast
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@contextlib.contextmanager
def allowing_tf32(numerics: Numerics) -> Iterator[None]:
    """Lets float32 products round to TF32 if the run may; afterwards it is as before. A CPU is left alone."""
    before = torch.get_float32_matmul_precision()
    if numerics.tf32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def with_half_denoisers(models: Sequence[FrozenDiffusion], numerics: Numerics) -> list[FrozenDiffusion]:
    """Returns the models with U-Nets in bfloat16 if the run keeps them so; the weights are converted in place."""
    if not numerics.half_denoisers:
        return list(models)
    return [
        replace(model, unet=model.unet.bfloat16(), prompt_states=model.prompt_states.bfloat16()) for model in models
    ]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Returns whether the hardware has bfloat16 products; emulated, they are forty times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))

"""A frozen latent space: the encoder of an autoencoder, and its decoder, without a diffusion model.

Perturbing the encoder alone does not depend on what an attacker prompts or trains (PID, arXiv 2406.15305), and one
latent space serves every model that was trained in it.

B batch, H and W image sides, f the autoencoder's reduction, C latent channels, h = H/f and w = W/f.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rid.models.frozen_diffusion import weights_digest

AUTOENCODERS = ("AutoencoderTiny", "AutoencoderKL")
CONFIG = "config.json"
ENCODER_PARTS = ("encoder.", "quant_conv.")
SETTINGS = ("_class_name", "act_fn", "norm_num_groups", "down_block_types", "scaling_factor", "shift_factor")
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True)
class LatentSpace:
    """A frozen autoencoder; no parameter requires a gradient.

    Attributes:
        name: how it is called in logs, cards and reports.
        autoencoder: a diffusers AutoencoderTiny or AutoencoderKL.
        scaling_factor: s in z = s (E(x) - shift).
        shift_factor: subtracted before scaling.
        reduction: f, pixels a latent in each direction.
        channels: C.
        digest: sha256 of what decides latents: the encoder's weights and settings, and the scaling.
    """

    name: str
    autoencoder: nn.Module
    scaling_factor: float
    shift_factor: float
    reduction: int
    channels: int
    digest: str

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.autoencoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.autoencoder.parameters()).dtype

    def encode(self, image: Tensor) -> Tensor:
        """Returns scaled latents of images of any size; of a posterior its mean.

        Sides that the reduction does not divide are continued by their last pixels.

        Args:
            image: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, C, h, w) float32 latents that carry the gradient of `image`.
        """
        padded = pad_to_multiple(image, self.reduction).to(self.dtype)  # (B, 3, f h, f w)
        padded = padded.contiguous(memory_format=torch.channels_last)
        encoded: Any = self.autoencoder.encode(padded)  # type: ignore[operator]
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        return torch.as_tensor(latents.float() - self.shift_factor) * self.scaling_factor  # (B, C, h, w)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the (B, 3, f h, f w) float32 pictures of (B, C, h, w) scaled latents, about -1 to 1."""
        raw = (latents / self.scaling_factor + self.shift_factor).to(self.dtype)
        decoded: Any = self.autoencoder.decode(raw.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return torch.as_tensor(decoded.sample).float()


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Continues (B, 3, H, W) images by their last pixels, right and below, to sides that `multiple` divides."""
    below, right = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


@torch.no_grad()
def channel_deviation(space: LatentSpace, images: Tensor) -> Tensor:
    """Returns the (C, 1, 1) standard deviation of each channel over (B, 3, H, W) images and places.

    It is the unit in which displacements are measured, so that spaces can be compared and averaged.
    """
    return space.encode(images).std(dim=(0, 2, 3)).clamp(min=1e-6).view(-1, 1, 1)


def shift(space: LatentSpace, clean: Tensor, changed: Tensor, deviation: Tensor) -> Tensor:
    """Returns the (B, C, h, w) shift of the latents of (B, 3, H, W) images, in standard deviations of each channel.

    The clean images' latents carry no gradient.
    """
    with torch.no_grad():
        origin = space.encode(clean)
    return (space.encode(changed) - origin) / deviation


def displacement(shifts: Tensor) -> Tensor:
    """Returns the (B,) mean squares of (B, C, h, w) shifts: displacement in units of channel variance."""
    return shifts.square().mean(dim=(1, 2, 3))


def load_latent_space(
    location: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> LatentSpace:
    """Loads and freezes an autoencoder in the diffusers layout.

    Args:
        location: a folder with an autoencoder's config.json, or of a pipeline with one in `vae/`; or a hub id of one.
        name: the name in logs; the folder's name or the hub id if None.
        revision: branch, tag or commit of a hub model.
        dtype: type of the weights.
        device: where to put them.

    Raises:
        ValueError: if there is no autoencoder there, or one of another kind; one sentence says what is wrong.
    """
    import diffusers

    kind, where = _find_autoencoder(location, revision)
    try:
        autoencoder: Any = getattr(diffusers, kind).from_pretrained(location, torch_dtype=dtype, **where)
    except LOAD_ERRORS as error:
        raise ValueError(f"the autoencoder {location} could not be loaded: {_first_line(error)}") from error
    autoencoder = autoencoder.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    config = autoencoder.config
    settings = json.dumps([kind, *(config.get(key) for key in SETTINGS[1:])])
    return LatentSpace(
        name=name or (Path(location).resolve().name if Path(location).is_dir() else location),
        autoencoder=autoencoder,
        scaling_factor=float(config.scaling_factor or 1.0),
        shift_factor=float(config.get("shift_factor") or 0.0),
        reduction=_reduction(autoencoder),
        channels=int(config.latent_channels),
        digest=weights_digest(autoencoder, settings, ENCODER_PARTS),
    )


def _find_autoencoder(location: str, revision: str | None) -> tuple[str, dict[str, str]]:
    """Returns the class of the autoencoder at a folder or hub id, and where below it lies, as diffusers takes it."""
    options = {"revision": revision} if revision else {}
    for where in ({}, {"subfolder": "vae"}):
        config = _read_config(location, where.get("subfolder", ""), revision)
        if config is None:
            continue
        kind = str(config.get("_class_name"))
        if kind not in AUTOENCODERS:
            raise ValueError(
                f"{location} holds a {kind}: a latent space is one of {', '.join(AUTOENCODERS)}, or a pipeline with one"
            )
        return kind, {**where, **options}
    raise ValueError(
        f"the latent space {location} is no folder with an autoencoder's {CONFIG} here (or in its vae folder), and "
        "could not be fetched from the hub: check the path, or the name, your network and your access"
    )


def _read_config(location: str, subfolder: str, revision: str | None) -> dict[str, Any] | None:
    """Returns an autoencoder's config.json, or None where there is none."""
    folder = Path(location)
    if folder.is_dir() or location.startswith((".", "/", "~")) or location.count("/") != 1:
        file = folder / subfolder / CONFIG
        if not file.is_file():
            return None
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(location, CONFIG, subfolder=subfolder or None, revision=revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            return None  # the caller says what was looked for
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}; save the autoencoder again") from error
    return config


def _reduction(autoencoder: Any) -> int:
    config = autoencoder.config
    blocks = config.get("encoder_block_out_channels") or config.block_out_channels
    return int(2 ** (len(blocks) - 1))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

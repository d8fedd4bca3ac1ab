"""A frozen text-to-image model, read from the Stable Diffusion folder layout of diffusers.

B batch, C latent channels, h and w latent sides, L prompt length, E text width.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
ENCODER_SETTINGS = ("scaling_factor", "shift_factor", "act_fn", "norm_num_groups", "down_block_types")


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process z_t = sqrt(abar_t) z + sqrt(1 - abar_t) n.

    Attributes:
        abar: (T,) cumulative products of the alphas.
        prediction_type: what the U-Net outputs, "epsilon" or "v_prediction".
    """

    abar: Tensor
    prediction_type: str

    def at(self, timesteps: Tensor) -> Tensor:
        """Returns abar_t for (B,) timesteps, shaped (B, 1, 1, 1)."""
        return self.abar.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns z_t, (B, C, h, w)."""
        abar = self.at(timesteps).to(latents.dtype)  # (B, 1, 1, 1)
        return abar.sqrt() * latents + (1 - abar).sqrt() * noise

    def to_epsilon(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Converts the U-Net's output at z_t to a prediction of the noise: eps = sqrt(abar) v + sqrt(1 - abar) z_t."""
        if self.prediction_type == "epsilon":
            return output
        abar = self.at(timesteps).to(output.dtype)
        return abar.sqrt() * output + (1 - abar).sqrt() * noisy

    def training_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the U-Net's training target at z_t: the noise, or v = sqrt(abar) n - sqrt(1 - abar) z."""
        if self.prediction_type == "epsilon":
            return noise
        abar = self.at(timesteps).to(latents.dtype)  # (B, 1, 1, 1)
        return abar.sqrt() * noise - (1 - abar).sqrt() * latents


@dataclass(frozen=True)
class FrozenDiffusion:
    """The frozen parts that the losses need; no parameter requires a gradient.

    Attributes:
        name: how the model is called in logs and reports.
        vae: the autoencoder; `encode` maps (B, 3, H, W) in [-1, 1] to latents.
        unet: the denoiser.
        schedule: its forward process.
        prompt_states: (1, L, E) text-encoder states of the prompt, in the type of the U-Net's weights.
        scaling_factor: s in z = s (E(x) - shift).
        shift_factor: subtracted before scaling; 0 for Stable Diffusion.
        native_resolution: the side in pixels the model was trained at.
        encoder_digest: sha256 of what decides latents: the encoder's weights and settings, and the scaling.
        text_digest: sha256 of what decides `prompt_states`: the text encoder's weights and the prompt's tokens.
    """

    name: str
    vae: nn.Module
    unet: nn.Module
    schedule: NoiseSchedule
    prompt_states: Tensor
    scaling_factor: float
    shift_factor: float
    native_resolution: int
    encoder_digest: str
    text_digest: str

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.prompt_states.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of one image at native resolution."""
        config: Any = self.vae.config
        side = self.native_resolution // 2 ** (len(config.block_out_channels) - 1)
        return int(config.latent_channels), side, side

    @property
    def encoding_key(self) -> tuple[str, int, torch.dtype]:
        """Equal for models whose latents of an image are equal."""
        return self.encoder_digest, self.native_resolution, self.vae_dtype

    def describe(self) -> str:
        """Returns what the model is recognised by: resolution, prediction, and digests of the weights of every part.

        All weights are read, which takes seconds for a model of full size.
        """
        parts = f"autoencoder {weights_digest(self.vae)[:12]} (encoder {self.encoder_digest[:12]})"
        parts += f", U-Net {weights_digest(self.unet)[:12]}, text encoder and prompt {self.text_digest[:12]}"
        dtype = str(self.prompt_states.dtype).removeprefix("torch.")
        return f"{self.schedule.prediction_type} at {self.native_resolution} px in {dtype}, {parts}"

    @property
    def vae_dtype(self) -> torch.dtype:
        """The type of the autoencoder's weights, which need not be the U-Net's."""
        return next(self.vae.parameters()).dtype

    def resize(self, image: Tensor) -> Tensor:
        """Resizes (B, 3, H, W) to the native resolution, antialiased and differentiable."""
        side = (self.native_resolution, self.native_resolution)
        if tuple(image.shape[-2:]) == side:
            return image
        return F.interpolate(image, size=side, mode="bicubic", antialias=True, align_corners=False)

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns scaled latents of images at native resolution.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            generator: draws a sample of the posterior; without one its mean is taken.

        Returns:
            (B, C, h, w) latents that carry the gradient of `image`.
        """
        posterior = self._posterior(image)
        if generator is None:
            return self._scale(posterior.mean)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
        return self._scale(posterior.mean + posterior.std * noise.to(posterior.mean))

    def encode_with(self, image: Tensor, noise: Tensor) -> Tensor:
        """Returns the posterior sample that `noise`, (B, C, h, w) standard normal, picks; as `encode` otherwise."""
        posterior = self._posterior(image)
        return self._scale(posterior.mean + posterior.std * noise.to(posterior.mean))

    def _posterior(self, image: Tensor) -> Any:
        """Encodes; on a GPU in the type of the weights, whatever autocast says: bfloat16 would cost latents digits."""
        on_gpu = image.device.type == "cuda"
        with torch.autocast("cuda", enabled=False) if on_gpu else contextlib.nullcontext():
            return self.vae.encode(image.to(self.vae_dtype)).latent_dist  # type: ignore[operator]

    def _scale(self, latents: Tensor) -> Tensor:
        return (latents - self.shift_factor) * self.scaling_factor

    def output(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the U-Net's output at (B, C, h, w) z_t, whatever it predicts, in the type of its weights."""
        states = self.prompt_states.expand(len(noisy), -1, -1)  # (B, L, E)
        return torch.as_tensor(self.unet(noisy.to(states.dtype), timesteps, encoder_hidden_states=states).sample)

    def predict_noise(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Returns eps_theta(z_t, t, prompt), (B, C, h, w); v-predictions are converted."""
        output = self.output(noisy, timesteps)  # (B, C, h, w)
        return self.schedule.to_epsilon(output, noisy.to(output.dtype), timesteps)


def share_autoencoders(models: Sequence[FrozenDiffusion]) -> list[FrozenDiffusion]:
    """Returns the models with one autoencoder in memory for all whose encoders, decoders and types are equal.

    Models of equal encoders and other decoders keep their own, and share encodings all the same (`encoding_key`).
    """
    kept: list[FrozenDiffusion] = []
    for model in models:
        twin = next((other for other in kept if _equal_autoencoders(model, other)), model)
        kept.append(replace(model, vae=twin.vae))
    return kept


def _equal_autoencoders(one: FrozenDiffusion, other: FrozenDiffusion) -> bool:
    if (one.encoder_digest, one.vae_dtype) != (other.encoder_digest, other.vae_dtype):
        return False
    weights, others = one.vae.state_dict(), other.vae.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def checkpoint_autoencoders(models: Sequence[FrozenDiffusion], enabled: bool) -> None:
    """Keeps only each encoder block's input for the backward pass, which computes the rest again; or everything."""
    for model in models:
        vae: Any = model.vae
        if enabled:
            vae.enable_gradient_checkpointing()
        else:
            vae.disable_gradient_checkpointing()


def load_frozen_diffusion(
    location: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    native_resolution: int | None = None,
    prompt: str = " ",
) -> FrozenDiffusion:
    """Loads and freezes a Stable-Diffusion-layout model.

    Args:
        location: a folder that holds model_index.json, or a hub id such as "stabilityai/stable-diffusion-2-1-base".
        name: the name in logs; `location` if None.
        revision: branch, tag or commit of a hub model.
        dtype: type of the weights.
        device: where to put them.
        native_resolution: side in pixels; by default the U-Net's sample_size times the autoencoder's reduction.
        prompt: the text the model is conditioned on (the method's is " ").

    Raises:
        ValueError: if the folder or the hub model is incomplete or of another kind; one sentence says what is wrong.
    """
    _check_layout(location, revision)
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        vae = AutoencoderKL.from_pretrained(location, subfolder="vae", torch_dtype=dtype, **options)
        unet = UNet2DConditionModel.from_pretrained(location, subfolder="unet", torch_dtype=dtype, **options)
        text_encoder = CLIPTextModel.from_pretrained(location, subfolder="text_encoder", dtype=dtype, **options)
        tokenizer = CLIPTokenizer.from_pretrained(location, subfolder="tokenizer", **options)
        scheduler = DDPMScheduler.from_pretrained(location, subfolder="scheduler", **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the diffusion model {location} could not be loaded: {first_line}") from error
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the diffusion model {location} predicts {prediction_type!r}; epsilon and v_prediction are supported"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"the diffusion model {location} takes {unet.config.in_channels} channels where its autoencoder gives "
            f"{vae.config.latent_channels}: inpainting and depth variants are not supported, use the text-to-image one"
        )
    for module in (vae, unet, text_encoder):
        module.eval().requires_grad_(False).to(device)
    reduction = 2 ** (len(vae.config.block_out_channels) - 1)
    tokens = _tokenize(text_encoder, tokenizer, prompt)  # (1, L)
    return FrozenDiffusion(
        name=name or location,
        vae=vae,
        unet=unet,
        schedule=NoiseSchedule(scheduler.alphas_cumprod.double().to(device), prediction_type),
        prompt_states=_encode_prompt(text_encoder, tokens),
        scaling_factor=float(vae.config.scaling_factor),
        shift_factor=float(vae.config.shift_factor or 0.0),
        native_resolution=native_resolution or int(unet.config.sample_size) * reduction,
        encoder_digest=_encoder_digest(vae),
        text_digest=weights_digest(text_encoder, f"{tokens.tolist()}"),
    )


def _tokenize(text_encoder: Any, tokenizer: Any, prompt: str) -> Tensor:
    """Returns (1, L) ids of the prompt, padded to the tokenizer's length as Stable Diffusion does."""
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    encoded = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


@torch.no_grad()
def _encode_prompt(text_encoder: Any, tokens: Tensor) -> Tensor:
    """Returns the (1, L, E) states of (1, L) ids."""
    return torch.as_tensor(text_encoder(tokens.to(text_encoder.device)).last_hidden_state)


def _check_layout(location: str, revision: str | None) -> None:
    """Reads model_index.json and checks that it names every part of a text-to-image Stable Diffusion model."""
    index_file = Path(location) / "model_index.json"
    if not Path(location).exists() and location.count("/") == 1 and not location.startswith((".", "/", "~")):
        index_file = _download_index(location, revision)
    if not index_file.is_file():
        raise ValueError(
            f"the diffusion model {location} has no model_index.json: give a folder saved by diffusers' "
            "save_pretrained, or a hub id of the form owner/name"
        )
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{index_file} is not JSON: {error}; save the pipeline again") from error
    missing = [part for part in PARTS if not index.get(part) or not index[part][0]]
    if Path(location).is_dir():
        missing += [part for part in PARTS if part not in missing and not (Path(location) / part).is_dir()]
    if missing:
        raise ValueError(
            f"the diffusion model {location} ({index.get('_class_name', 'unnamed class')}) lacks {', '.join(missing)}: "
            "a Stable Diffusion 1.x or 2.x text-to-image pipeline is needed"
        )
    if index["unet"][1] != "UNet2DConditionModel" or "text_encoder_2" in index:
        raise ValueError(
            f"the diffusion model {location} is a {index.get('_class_name')}: a Stable Diffusion 1.x or 2.x "
            "text-to-image pipeline is needed"
        )


def _download_index(location: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(location, "model_index.json", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"the diffusion model {location} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}): check the name, your network and your access, or give a local folder"
        ) from error


def weights_digest(module: nn.Module, settings: str = "", parts: tuple[str, ...] = ()) -> str:
    """Returns the sha256 of a module's weights in their type, under their names, and of some settings.

    Args:
        module: on any device.
        settings: what else decides its outputs.
        parts: the beginnings of the names that count; empty takes all.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(module.state_dict().items()):
        if not parts or name.startswith(parts):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _encoder_digest(vae: Any) -> str:
    """Digest of what decides latents; the decoder does not."""
    settings = json.dumps([vae.config.get(name) for name in ENCODER_SETTINGS])
    return weights_digest(vae, settings, ("encoder.", "quant_conv."))

"""A text-to-image model with trainable parts, read from the Stable Diffusion folder layout, and images drawn by it.

B batch, C latent channels, h and w latent sides, L prompt length, E text width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rid.models.frozen_diffusion import NoiseSchedule
from rid.training.batches import pixels_to_signed

GUIDANCE = 3.0
SAMPLER_STEPS = 25
SAMPLES_AT_ONCE = 16


@dataclass(frozen=True)
class TextToImage:
    """The parts that an attacker trains, in float32.

    Attributes:
        vae: the autoencoder; it stays frozen.
        unet: the denoiser.
        text_encoder: turns token ids into states.
        tokenizer: turns prompts into token ids.
        scheduler: the noise schedule and the prediction type.
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process and the U-Net's target."""
        return NoiseSchedule(self.scheduler.alphas_cumprod, self.scheduler.config.prediction_type)

    @property
    def resolution(self) -> int:
        """The side in pixels the model was trained at."""
        halvings = len(self.vae.config.block_out_channels) - 1
        return int(self.unet.config.sample_size) << halvings

    def fresh_copy(self) -> TextToImage:
        """Returns a model whose U-Net, text encoder and tokenizer can be changed without changing this one's."""
        changed = {name: copy.deepcopy(getattr(self, name)) for name in ("unet", "text_encoder", "tokenizer")}
        return replace(self, **changed)

    def token_ids(self, prompts: list[str]) -> Tensor:
        """Returns (B, L) padded token ids."""
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        encoded = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return torch.as_tensor(encoded.input_ids).to(self.device)

    def states(self, ids: Tensor) -> Tensor:
        """Returns (B, L, E) states of (B, L) token ids."""
        return torch.as_tensor(self.text_encoder(ids)[0])

    @torch.no_grad()
    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Returns (B, C, h, w) scaled latent means of (B, S, S, 3) photos at the model's resolution."""
        image = pixels_to_signed(pixels).to(self.device)
        shift = float(getattr(self.vae.config, "shift_factor", None) or 0.0)
        latents: Tensor = self.vae.encode(image).latent_dist.mean  # (B, C, h, w)
        return (latents - shift) * float(self.vae.config.scaling_factor)

    def denoising_loss(self, latents: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the mean squared error of the U-Net's own target at a fresh time step and noise a latent.

        Args:
            latents: (B, C, h, w).
            states: (B, L, E).
            generator: of time steps and noise, on the CPU.
        """
        schedule = self.schedule
        timesteps = torch.randint(0, len(schedule.abar), (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noisy = schedule.add_noise(latents, noise, timesteps)  # (B, C, h, w)
        output = self.unet(noisy, timesteps, encoder_hidden_states=states).sample  # (B, C, h, w)
        return F.mse_loss(output, schedule.training_target(latents, noise, timesteps))


def load_text_to_image(location: str, *, revision: str | None = None, device: str = "cpu") -> TextToImage:
    """Loads a model's trainable parts in float32.

    Args:
        location: a folder in the Stable Diffusion layout, or a hub id.
        revision: branch, tag or commit of a hub model.
        device: where it goes.

    Raises:
        ValueError: with one sentence, if it is no such model.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    places: dict[str, Any] = {"pretrained_model_name_or_path": location, "revision": revision}
    try:
        parts = {
            "vae": AutoencoderKL.from_pretrained(**places, subfolder="vae", torch_dtype=torch.float32),
            "unet": UNet2DConditionModel.from_pretrained(**places, subfolder="unet", torch_dtype=torch.float32),
            "text_encoder": CLIPTextModel.from_pretrained(**places, subfolder="text_encoder", dtype=torch.float32),
            "tokenizer": CLIPTokenizer.from_pretrained(**places, subfolder="tokenizer"),
            "scheduler": DDPMScheduler.from_pretrained(**places, subfolder="scheduler"),
        }
    except (OSError, KeyError, ValueError) as error:
        first = str(error).splitlines()[0][:300]
        raise ValueError(f"{location} is no text-to-image model in the Stable Diffusion layout: {first}") from error
    for name in ("vae", "unet", "text_encoder"):
        parts[name].to(device).requires_grad_(False).eval()
    return TextToImage(**parts)


@torch.no_grad()
def draw(
    model: TextToImage,
    prompt: str,
    count: int,
    *,
    seed: int,
    sampler_steps: int = SAMPLER_STEPS,
    guidance: float = GUIDANCE,
) -> NDArray[np.uint8]:
    """Draws (count, S, S, 3) uint8 images of a prompt with DPM-Solver++ and classifier-free guidance."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        unet=model.unet,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        scheduler=DPMSolverMultistepScheduler.from_config(model.scheduler.config, algorithm_type="dpmsolver++"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for start in range(0, count, SAMPLES_AT_ONCE):
        images = pipeline(
            prompt,
            num_images_per_prompt=min(SAMPLES_AT_ONCE, count - start),
            num_inference_steps=sampler_steps,
            guidance_scale=guidance,
            generator=generator,
            output_type="np",
        ).images
        drawn.append(np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8))
    return np.concatenate(drawn)

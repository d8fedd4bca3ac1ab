"""Builds the parts of the embedded text-to-image model and saves them in the diffusers folder layout.

B batch, C latent channels, h = H/8 and w = W/8 the latent sides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PredictionType = Literal["epsilon", "v_prediction"]

PROMPT_LENGTH = 32
CAPTION_WORDS = (
    "a photo of a man woman boy girl baby person face portrait close up sks "
    "year old years young middle aged elderly child teenager adult " + " ".join(str(age) for age in range(117))
)


@dataclass(frozen=True)
class EmbeddedSize:
    """Widths of one embedded model; every size shares the layout and the f=8 autoencoder."""

    image_size: int
    latent_channels: int
    autoencoder_channels: tuple[int, int, int, int]
    denoiser_channels: tuple[int, int]
    layers_per_block: int
    text_width: int


SIZES = {
    "tiny-64": EmbeddedSize(64, 8, (8, 16, 32, 32), (32, 64), 1, 32),
    "faces-64": EmbeddedSize(64, 16, (16, 32, 64, 128), (96, 192), 1, 128),
    "faces-128": EmbeddedSize(128, 16, (64, 128, 256, 256), (192, 384), 2, 256),
}


def build_autoencoder(size: EmbeddedSize) -> Any:
    """Returns a fresh `AutoencoderKL` that maps (B, 3, H, W) in [-1, 1] to (B, C, H/8, W/8)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.autoencoder_channels,
        layers_per_block=1,
        latent_channels=size.latent_channels,
        norm_num_groups=8,
        sample_size=size.image_size,
        mid_block_add_attention=False,
    )


def build_denoiser(size: EmbeddedSize) -> Any:
    """Returns a fresh text-conditioned `UNet2DConditionModel` on (B, C, h, w) latents."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=size.image_size // 8,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=size.denoiser_channels,
        layers_per_block=size.layers_per_block,
        cross_attention_dim=size.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_tokenizer(folder: Path) -> Any:
    """Trains a byte-pair tokenizer on the caption vocabulary and returns it as a `CLIPTokenizer`.

    Args:
        folder: where `vocab.json` and `merges.txt` are written.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=special[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=special,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([CAPTION_WORDS] * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = _with_word_ends(model["vocab"], alphabet)
    merges = [tuple(pair) for pair in model["merges"]]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=PROMPT_LENGTH)


def _with_word_ends(vocabulary: dict[str, int], alphabet: list[str]) -> dict[str, int]:
    """Adds the word-final form of every byte, so that any text can be tokenised."""
    vocabulary = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    for character in alphabet:
        vocabulary.setdefault(character + "</w>", len(vocabulary))
    return vocabulary


def build_text_encoder(size: EmbeddedSize, tokenizer: Any) -> Any:
    """Returns a fresh two-layer `CLIPTextModel` whose states are (B, PROMPT_LENGTH, text_width)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.text_width,
            intermediate_size=4 * size.text_width,
            projection_dim=size.text_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_noise_scheduler(prediction_type: PredictionType) -> Any:
    """Returns the DDPM noise schedule of Stable Diffusion (scaled-linear betas, 1,000 steps)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )


def save_pipeline(folder: Path, *, vae: Any, unet: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
    """Writes the parts as a Stable Diffusion pipeline folder that `diffusers` reads back, in shards under 20 MB."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size="20MB")

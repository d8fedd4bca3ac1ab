"""Named training runs. Each function returns a complete configuration; a variant changes fields of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rid.training.config import TrainingConfig


def faces_64() -> TrainingConfig:
    """A 4.8 M defender at 64 px against the embedded face model, any budget 1-16; the shipped one had lambda 10.

    `rid train --recipe faces_64 --teacher-photos 128 --photos FACES.parquet --models embedded --out RUN`: about 20
    minutes on 2 cores. At a budget of 6 the shipped one raises that model's diffusion loss by 6 %
    (models/weights/README.md). Lambda 3 is from the sweep in benchmarks/RESULTS.md: of those without a grid it
    protects most.
    """
    return TrainingConfig(
        recipe="faces_64",
        size="faces-64",
        budget_min=1,
        budget_max=16,
        budget_default=6,
        steps=2500,
        batch=8,
        pair_batch=4,
        warm_up_steps=100,
        learning_rate=5e-4,
        ema_decay=0.995,
        regression_weight=3.0,
    )


def faces_64_displaced() -> TrainingConfig:
    """The shipped defender: `faces_64` with the latent displacement, which a trained defender has to be started from.

    `rid train --recipe faces_64_displaced --init DEFENDER --teacher encoder
    --teacher-option 'target="grey"' --teacher-budget 16 --teacher-photos 192 ...`: on development identities, at 16
    levels, latents move 0.46 (squared, of unit variance) where `faces_64` moves them 0.18 and 60 steps of the encoder
    attack 0.50.
    """
    return replace(
        faces_64(),
        recipe="faces_64_displaced",
        steps=400,
        warm_up_steps=20,
        learning_rate=8e-4,
        regression_weight=0.3,
        displacement_weight=3.0,
    )


def combined() -> TrainingConfig:
    """The paper's ablation at the size of `faces_64`, both terms: `--recipe combined --set steps=600`, for example.

    Compare with `adv_sds_only` and `regression_only` at equal steps and seeds, as `benchmarks/lambda_sweep.py` does;
    after 200 steps +0.0052, +0.0048 and +0.0026 diffusion loss (benchmarks/RESULTS.md).
    """
    return replace(faces_64(), recipe="combined", steps=1200)


def adv_sds_only() -> TrainingConfig:
    """The ablation without teachers: eq. 9 alone, which leaves grid-like artefacts."""
    return replace(combined(), recipe="adv_sds_only", regression_weight=0.0)


def regression_only() -> TrainingConfig:
    """The ablation without Adv-SDS: eq. 10 alone, which protects less."""
    return replace(combined(), recipe="regression_only", adv_sds_weight=0.0)


def faces_64_transformed() -> TrainingConfig:
    """`faces_64` against platforms: half of the photos are shrunk and JPEG-coded (quality 60-95) before the encoder."""
    return replace(faces_64(), recipe="faces_64_transformed", transformed_share=0.5)


def demo() -> TrainingConfig:
    """The throw-away training of `make demo`: about a minute on 2 cores, not a protection against anything."""
    return replace(
        faces_64(),
        recipe="demo",
        size="tiny-64",
        steps=300,
        batch=4,
        pair_batch=2,
        warm_up_steps=20,
        learning_rate=1e-3,
        ema_decay=0.98,
        checkpoint_every=100,
    )


def any_size() -> TrainingConfig:
    """The shipped defender: a convolutional network for photos of any size, against an ensemble of latent spaces.

    `rid train --recipe any_size --photo-side 256 --photos FACES.parquet --out RUN --spaces sd1 --spaces sdxl
    --spaces sd3 --spaces flux1`: about 1.2 CPU-seconds a step on cores with bfloat16. What it reaches is in
    models/weights/README.md. On a GPU, against the autoencoders of the large models themselves, name their hub ids in
    `--spaces` and raise `--set batch=64` and `--set view_side=128`.
    """
    return TrainingConfig(
        recipe="any_size",
        size="conv-56",
        budget_min=1,
        budget_max=16,
        budget_default=6,
        steps=3000,
        batch=12,
        pair_batch=4,
        adv_sds_weight=0.0,
        regression_weight=0.0,
        space_weight=1.0,
        spaces_a_step=2,
        shared_weight=1.0,
        effort_weight=0.03,
        shared_windows=True,
        window_min=82,
        view_side=64,
        view_plain_share=0.5,
        view_enlarged=2.5,
        transformed_share=0.1,
        learning_rate=2e-3,
        warm_up_steps=50,
        ema_decay=0.99,
        checkpoint_every=200,
    )


def rid_512() -> TrainingConfig:
    """The paper's: the reference network at 512 px and a budget of 6 levels ("12/255" in [-1, 1]).

    For GPUs: the paper trained 7 days on 8 A100-40G with SD 2.1-base, 1.5 and 1.4, one photo and one pair on each. Its
    lambda is not stated; 3 is from the sweep at 64 px (benchmarks/RESULTS.md).
    `rid train --recipe rid_512 ...` spreads the same batch over the GPUs there are.
    """
    return TrainingConfig(
        recipe="rid_512",
        size="rid-512",
        budget_min=6,
        budget_max=6,
        budget_default=6,
        steps=600_000,
        batch=8,
        pair_batch=8,
        micro_batch=1,
        regression_weight=3.0,
        warm_up_steps=500,
        learning_rate=3e-4,
        ema_decay=0.9999,
        vae_checkpointing=True,
        checkpoint_every=2000,
    )


def small_512() -> TrainingConfig:
    """A patch-32 network at 512 px for any budget: thirty times less work a photo than the paper's. For a GPU."""
    return replace(
        rid_512(), recipe="small_512", size="small-512", budget_min=1, budget_max=16, pair_batch=4, micro_batch=4
    )


RECIPES: dict[str, Callable[[], TrainingConfig]] = {
    "faces_64": faces_64,
    "faces_64_displaced": faces_64_displaced,
    "combined": combined,
    "adv_sds_only": adv_sds_only,
    "regression_only": regression_only,
    "faces_64_transformed": faces_64_transformed,
    "demo": demo,
    "any_size": any_size,
    "rid_512": rid_512,
    "small_512": small_512,
}


def recipe(name: str, **changes: int | float | str | None) -> TrainingConfig:
    """Returns a named recipe with some fields changed.

    Raises:
        ValueError: if no recipe has that name, or a change is no field of it.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown: choose one of {', '.join(sorted(RECIPES))}")
    base = RECIPES[name]()
    unknown = set(changes) - set(base.to_json())
    if unknown:
        raise ValueError(f"recipe {name!r} has no field {', '.join(sorted(unknown))}")
    return replace(base, **changes)  # type: ignore[arg-type]

"""Named training runs. Each function returns a complete configuration; a variant changes fields of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from training.config import TrainingConfig


def faces_64() -> TrainingConfig:
    """The shipped default: a 4.8 M defender at 64 px, trained against the embedded face model, any budget 1-16.

    `python -m training.train_default` reproduces it; about 40 minutes on 2 cores.
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
        regression_weight=10.0,
    )


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


def rid_512() -> TrainingConfig:
    """The paper's: the reference network at 512 px and a budget of 6 levels ("12/255" in [-1, 1]).

    For GPUs: the paper trained 7 days on 8 A100-40G with SD 2.1-base, 1.5 and 1.4.
    """
    return TrainingConfig(
        recipe="rid_512",
        size="rid-512",
        budget_min=6,
        budget_max=6,
        budget_default=6,
        steps=600_000,
        batch=1,
        pair_batch=1,
        warm_up_steps=500,
        learning_rate=3e-4,
        ema_decay=0.9999,
        checkpoint_every=2000,
    )


def small_512() -> TrainingConfig:
    """A patch-32 network at 512 px for any budget: thirty times less work a photo than the paper's. For a GPU."""
    return replace(rid_512(), recipe="small_512", size="small-512", budget_min=1, budget_max=16, batch=8, pair_batch=4)


RECIPES: dict[str, Callable[[], TrainingConfig]] = {
    "faces_64": faces_64,
    "demo": demo,
    "rid_512": rid_512,
    "small_512": small_512,
}


def recipe(name: str, **changes: int | float | str) -> TrainingConfig:
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

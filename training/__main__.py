"""Trains a defender from Parquet photos without Dagster.

    python -m training --recipe faces_64 --photos faces.parquet --models models/weights/embedded-64 --out FOLDER

Photos are in the Hugging Face `Image` convention. A seeded share of them first gets teacher perturbations; those and
the checkpoint stay in FOLDER/run, so that an interrupted run goes on. FOLDER/defender is a defender folder with its
ONNX file, which `rid protect --defender FOLDER/defender` takes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models.checkpoint import BudgetRange, DefenderCard, load_defender, save_defender
from models.defender import SIZES
from models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from training.config import TrainingConfig
from training.embedded.faces import load_faces
from training.exporting import add_onnx
from training.photo_set import PhotoSet
from training.recipes import RECIPES, recipe
from training.teachers.config import METHODS, TeacherConfig
from training.teachers.methods import OBJECTIVES
from training.teachers.pgd import precompute_perturbations
from training.trainer import train_defender

TEACHER_BATCH = 16


def precompute_teacher(
    pixels: NDArray[np.uint8], models: list[FrozenDiffusion], config: TeacherConfig, folder: Path
) -> NDArray[np.int8]:
    """Returns perturbations of (M, S, S, 3) photos; finished batches are read back from the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in tqdm(range(0, len(pixels), TEACHER_BATCH), desc=f"teacher {config.method}", unit="batch"):
        file = folder / f"{config.digest()[:12]}-{start:06d}.npy"
        if not file.is_file():
            part = precompute_perturbations(
                pixels[start : start + TEACHER_BATCH], OBJECTIVES[config.method], models, config
            )
            temporary = file.with_suffix(".writing.npy")
            np.save(temporary, part)
            temporary.replace(file)
        parts.append(np.load(file))
    return np.concatenate(parts)


def build_photo_set(options: argparse.Namespace, config: TrainingConfig, models: list[FrozenDiffusion]) -> PhotoSet:
    """Reads the photos and precomputes the teacher's share of them."""
    pixels = load_faces(options.photos, SIZES[config.size].working_resolution).pixels
    pixels = pixels[np.random.default_rng(options.seed).permutation(len(pixels))]
    count = min(options.teacher_photos, len(pixels)) if config.regression_weight else 0
    teacher = TeacherConfig(
        method=options.teacher, budget_levels=options.teacher_budget, steps=options.teacher_steps, seed=options.seed
    )
    if count == 0:
        return PhotoSet(pixels, np.zeros(0, np.int64), np.zeros((0, *pixels.shape[1:]), np.int8), 0)
    perturbations = precompute_teacher(pixels[:count], models, teacher, options.out / "run" / "teacher")
    return PhotoSet(pixels, np.arange(count), perturbations, teacher.budget_levels)


def card(
    options: argparse.Namespace, config: TrainingConfig, models: list[FrozenDiffusion], count: int
) -> DefenderCard:
    """Says what was trained on what."""
    names = ", ".join(Path(model.name).name for model in models)
    return DefenderCard(
        name=options.name,
        description=options.description
        or f"Trained against {names} with the recipe {config.recipe}. It is a protection against nothing else.",
        budget=BudgetRange(config.budget_min, config.budget_max, config.budget_default),
        licence=options.licence,
        origin=f"recipe {config.recipe}",
        training={
            "config": config.to_json(),
            "models": [Path(model.name).name for model in models],
            "photos": count,
            "teacher": {
                "method": options.teacher,
                "budget_levels": options.teacher_budget,
                "steps": options.teacher_steps,
                "photos": options.teacher_photos,
            },
        },
    )


def main() -> None:
    """Parses the options, trains, saves the defender and its ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="faces_64")
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True, help="folders or hub ids of frozen diffusion models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="a defender folder to start from")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="change a field of the recipe")
    parser.add_argument("--teacher", choices=METHODS, default="advdm")
    parser.add_argument("--teacher-photos", type=int, default=128)
    parser.add_argument("--teacher-steps", type=int, default=40)
    parser.add_argument("--teacher-budget", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="defender")
    parser.add_argument("--description")
    parser.add_argument("--licence", default="not stated")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    changes: dict[str, Any] = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    config = recipe(options.recipe, seed=options.seed, **changes)
    models = [load_frozen_diffusion(location, device=options.device) for location in options.models]
    photos = build_photo_set(options, config, models)
    with tqdm(total=config.steps, desc="defender", unit="step") as progress:

        def on_step(record: dict[str, Any]) -> None:
            progress.update(record["step"] + 1 - progress.n)
            progress.set_postfix(adv_sds=f"{record['adv_sds']:.4f}", regression=f"{record['regression']:.4f}")

        defender = train_defender(
            config,
            photos,
            models,
            options.out / "run",
            initial=load_defender(options.init)[0] if options.init else None,
            device=options.device,
            on_step=on_step,
        )
    folder = options.out / "defender"
    digest = save_defender(folder, defender, card(options, config, models, len(photos.pixels)), precision="float16")
    check = add_onnx(folder)
    print(f"defender {digest}\nfolder {folder}\nonnx error {check.max_error:.2g} of the budget at most")


if __name__ == "__main__":
    main()

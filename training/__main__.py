"""Trains a defender from Parquet photos without Dagster.

    python -m training --recipe faces_64 --photos faces.parquet --models models/weights/embedded-64 --out FOLDER

Photos are in the Hugging Face `Image` convention. A seeded share of them first gets teacher perturbations; those and
the checkpoint stay in FOLDER/run, so that an interrupted run goes on. FOLDER/defender is a defender folder with its
ONNX file, which `rid protect --defender FOLDER/defender` takes. On several GPUs: `accelerate launch -m training ...`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from tqdm import tqdm

from models.budget import BudgetRange
from models.checkpoint import DefenderCard, load_defender, save_defender
from models.defender import SIZES
from models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from training.config import TrainingConfig
from training.devices import training_accelerator
from training.embedded.faces import load_faces
from training.exporting import add_onnx
from training.photo_set import PhotoSet, seeded_share
from training.recipes import RECIPES, recipe
from training.teachers.config import METHODS, TeacherConfig
from training.teachers.methods import precompute_perturbations
from training.trainer import train_defender

TEACHER_BATCH = 16


def precompute_teacher(
    pixels: NDArray[np.uint8],
    models: list[FrozenDiffusion],
    config: TeacherConfig,
    folder: Path,
    accelerator: Accelerator,
) -> NDArray[np.int8]:
    """Returns perturbations of (M, R, R, 3) photos; processes share the batches, finished ones are read back."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pixels), TEACHER_BATCH)
    names = json.dumps([config.to_json(), [model.name for model in models]]).encode()
    files = [
        folder / f"{hashlib.sha256(names + pixels[start : start + TEACHER_BATCH].tobytes()).hexdigest()[:32]}.npy"
        for start in starts
    ]
    mine = range(accelerator.process_index, len(files), accelerator.num_processes)
    for index in tqdm(mine, desc=f"teacher {config.method}", unit="batch", disable=not accelerator.is_main_process):
        if not files[index].is_file():
            part = pixels[starts[index] : starts[index] + TEACHER_BATCH]
            made = precompute_perturbations(part, models, config)
            temporary = files[index].with_suffix(".writing.npy")
            np.save(temporary, made)
            temporary.replace(files[index])
    accelerator.wait_for_everyone()
    return np.concatenate([np.load(file) for file in files])


def build_photo_set(
    options: argparse.Namespace, config: TrainingConfig, models: list[FrozenDiffusion], accelerator: Accelerator
) -> PhotoSet:
    """Reads the photos and precomputes the teacher's share of them."""
    pixels = load_faces(options.photos, options.photo_side or SIZES[config.size].working_resolution).pixels
    share = options.teacher_share if config.regression_weight else 0.0
    chosen = np.array(seeded_share(list(pixels), share, options.seed)[: options.teacher_photos], np.int64)
    if len(chosen) == 0:
        return PhotoSet(pixels, chosen, np.zeros((0, *pixels.shape[1:]), np.int8), 0)
    teacher = TeacherConfig(
        method=options.teacher, budget_levels=options.teacher_budget, steps=options.teacher_steps, seed=options.seed
    )
    folder = options.out / "run" / "teacher"
    perturbations = precompute_teacher(pixels[chosen], models, teacher, folder, accelerator)
    return PhotoSet(pixels, chosen, perturbations, teacher.budget_levels)


def card(
    options: argparse.Namespace, config: TrainingConfig, models: list[FrozenDiffusion], photos: PhotoSet
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
            "photos": len(photos.pixels),
            "teacher": {
                "method": options.teacher,
                "budget_levels": options.teacher_budget,
                "steps": options.teacher_steps,
                "photos": len(photos.teacher),
            },
        },
    )


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="faces_64")
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument(
        "--photo-side", type=int, help="side of the squares photos are read as; larger ones are cropped"
    )
    parser.add_argument("--models", nargs="+", required=True, help="folders or hub ids of frozen diffusion models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="a defender folder to start from, such as models/weights/default")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="change a field of the recipe")
    parser.add_argument("--teacher", choices=METHODS, default="advdm")
    parser.add_argument("--teacher-share", type=float, default=0.1, help="share of the photos with a perturbation")
    parser.add_argument("--teacher-photos", type=int, help="at most this many of them")
    parser.add_argument("--teacher-steps", type=int, default=40)
    parser.add_argument("--teacher-budget", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="defender")
    parser.add_argument("--description")
    parser.add_argument("--licence", default="not stated")
    return parser.parse_args()


def main() -> None:
    """Trains, saves the defender and its ONNX file."""
    options = parse()
    torch.set_num_threads(options.threads)
    accelerator = training_accelerator(options.device)
    changes: dict[str, Any] = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    config = recipe(options.recipe, seed=options.seed, **changes)
    models = [load_frozen_diffusion(location, device=accelerator.device) for location in options.models]
    photos = build_photo_set(options, config, models, accelerator)
    with tqdm(total=config.steps, desc="defender", unit="step", disable=not accelerator.is_main_process) as progress:

        def on_step(record: dict[str, Any]) -> None:
            progress.update(record["step"] + 1 - progress.n)
            progress.set_postfix(adv_sds=f"{record['adv_sds']:.4f}", regression=f"{record['regression']:.4f}")

        defender = train_defender(
            config,
            photos,
            models,
            options.out / "run",
            initial=load_defender(options.init)[0] if options.init else None,
            accelerator=accelerator,
            on_step=on_step,
        )
    if accelerator.is_main_process:
        folder = options.out / "defender"
        digest = save_defender(folder, defender, card(options, config, models, photos), precision="float16")
        check = add_onnx(folder)
        print(f"defender {digest}\nfolder {folder}\nonnx error {check.max_error:.2g} of the budget at most")
    accelerator.end_training()


if __name__ == "__main__":
    main()

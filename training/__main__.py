"""Trains a defender from Parquet photos without Dagster.

    python -m rid.training --recipe faces_64 --photos faces.parquet --models models/weights/embedded-64 --out FOLDER

Photos are in the Hugging Face `Image` convention. A seeded share of them first gets teacher perturbations; those and
the checkpoint stay in FOLDER/run, so that an interrupted run goes on. FOLDER/defender is a defender folder with its
ONNX file, which `rid protect --defender FOLDER/defender` takes. On several GPUs:
`accelerate launch -m rid.training ...`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from rid.models.budget import BudgetRange
from rid.models.checkpoint import DefenderCard, load_defender, save_defender
from rid.models.defender import SIZES
from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion, share_autoencoders
from rid.training.config import TrainingConfig
from rid.training.devices import training_accelerator
from rid.training.embedded.faces import load_column, load_faces
from rid.training.exporting import add_onnx
from rid.training.photo_set import PhotoSet
from rid.training.recipes import RECIPES, recipe
from rid.training.run_log import LOG_FILE, read_log, summarise_losses
from rid.training.teachers.config import PROMPT, TeacherConfig
from rid.training.teachers.folder import Part, choose_units, precompute_in_folder, read_perturbations
from rid.training.teachers.options import METHODS, SET_WISE
from rid.training.teachers.pgd import TeacherDiverged
from rid.training.teachers.units import photo_digest
from rid.training.trainer import TrainingDiverged, train_defender

TEACHER_BUDGET = 8  # levels, unless the recipe allows less


def teacher_config(options: argparse.Namespace, config: TrainingConfig) -> TeacherConfig:
    """Returns the teacher that the command line describes.

    Raises:
        ValueError: if a number is out of range, the method has no such option, or it needs to know who is on a photo.
    """
    teacher = TeacherConfig.from_json(
        {
            "method": options.teacher,
            "budget_levels": options.teacher_budget or min(TEACHER_BUDGET, config.budget_max),
            "steps": options.teacher_steps,
            "step_levels": options.teacher_step_levels,
            "batch": options.teacher_batch,
            "seed": options.seed,
            "options": json_fields(options.teacher_option),
        }
    )
    if teacher.set_wise and not options.person_column:
        raise ValueError(
            f"teacher {teacher.method!r} perturbs the photos of one person together: name the column that tells people "
            "apart with --person-column"
        )
    return teacher


def build_photo_set(
    options: argparse.Namespace, config: TrainingConfig, models: list[FrozenDiffusion], accelerator: Accelerator
) -> PhotoSet:
    """Reads the photos and precomputes the teacher's share of them; processes share the work."""
    pixels = load_faces(options.photos, options.photo_side or SIZES[config.size].working_resolution).pixels
    teacher, digests = teacher_config(options, config), [photo_digest(photo) for photo in pixels]
    units = choose_units(
        digests,
        pixels,
        load_column(options.photos, options.person_column) if teacher.set_wise else None,
        share=options.teacher_share if config.regression_weight else 0.0,
        seed=options.seed,
        set_size=options.set_size,
        largest=options.teacher_photos,
    )
    if not units:
        return PhotoSet(pixels, np.zeros(0, np.int64), np.zeros((0, *pixels.shape[1:]), np.int8), 0)
    if teacher.text != PROMPT:
        models = load_models(options, accelerator, prompt=teacher.text)
    photos = dict(zip(digests, pixels, strict=True))
    part = Part(accelerator.process_index, accelerator.num_processes)
    folder = precompute_in_folder(units, photos, models, teacher, options.out / "run" / "teacher", part=part)
    accelerator.wait_for_everyone()
    made = read_perturbations(folder, units)
    index = np.array([i for i, digest in enumerate(digests) if digest in made], np.int64)
    return PhotoSet(pixels, index, np.stack([made[digests[i]] for i in index]), teacher.budget_levels)


def load_models(options: argparse.Namespace, accelerator: Accelerator, *, prompt: str) -> list[FrozenDiffusion]:
    """Loads the frozen models, conditioned on a prompt."""
    return share_autoencoders(
        [load_frozen_diffusion(location, device=accelerator.device, prompt=prompt) for location in options.models]
    )


def json_fields(items: list[str]) -> dict[str, Any]:
    """Reads FIELD=JSON items."""
    return {key: json.loads(value) for key, value in (item.split("=", 1) for item in items)}


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
            "initial": load_defender(options.init)[1]["digest"] if options.init else None,
            "photos": len(photos.pixels),
            "teacher": {**teacher_config(options, config).to_json(), "photos": len(photos.teacher)},
            "losses": summarise_losses(read_log(options.out / "run" / LOG_FILE)),
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
    parser.add_argument("--teacher-budget", type=int, help="levels; by default 8, or the recipe's largest")
    parser.add_argument("--teacher-step-levels", type=float, default=1.0, help="length of an ascent step")
    parser.add_argument("--teacher-batch", type=int, default=8, help="photos whose gradients are computed at once")
    parser.add_argument(
        "--teacher-option", action="append", default=[], metavar="NAME=JSON", help="see training/teachers/options.py"
    )
    parser.add_argument("--person-column", help=f"says who is on a photo; needed by {', '.join(SET_WISE)}")
    parser.add_argument("--set-size", type=int, default=8, help="photos of a person perturbed together, at most")
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
    config = recipe(options.recipe, seed=options.seed, **json_fields(options.set))
    models = load_models(options, accelerator, prompt=PROMPT)
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
    try:
        main()
    except (ValueError, TrainingDiverged, TeacherDiverged) as error:
        sys.exit(f"error: {error}")

"""The sweep of lambda: short trainings of the ablation, side by side.

    python -m benchmarks.lambda_sweep --photos FACES.parquet --held-out PEOPLE.parquet --out FOLDER

Trains `adv_sds_only`, `combined` at several lambdas and `regression_only` with equal photos, teachers, seeds and steps,
and measures each on photos that none has seen: what it adds to the model's diffusion loss with fresh noise and time
steps, PSNR, and the share of the perturbation that repeats from patch to patch (the grid that Adv-SDS alone leaves).
FOLDER/results.jsonl has a line a run, FOLDER/sweep.png the pictures; finished runs are not trained again. The pictures
show held-out people; with `--invented`, only faces that the model made up, which may be published.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rid.models.defender import SIZES, Defender
from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from rid.training.config import TrainingConfig
from rid.training.embedded.faces import load_faces
from rid.training.evaluation.effect.defended import perturb_squares
from rid.training.evaluation.effect.protection_effect import protection_effect
from rid.training.evaluation.statistics import bootstrap_mean
from rid.training.personalization.pipeline import draw as sample
from rid.training.personalization.pipeline import load_text_to_image
from rid.training.photo_set import PhotoSet, seeded_share
from rid.training.recipes import recipe
from rid.training.teachers.config import TeacherConfig
from rid.training.teachers.methods import precompute_perturbations
from rid.training.trainer import train_defender

EMBEDDED = Path(__file__).parents[1] / "models" / "weights" / "embedded-64"
TEACHER_BATCH = 32
PICTURES = 6
LABEL = 110  # pixels, beside each row
AMPLIFIED = 8  # times, in the pictures of perturbations


@dataclass(frozen=True)
class SweepResult:
    """One trained defender on the held-out photos.

    Attributes:
        name: of the run.
        regression_weight: lambda.
        rise: mean added diffusion loss, with the ends of its 95 % interval.
        noise_rise: the same for Gaussian noise of equal norm.
        psnr: in dB, of the protected photos.
        grid_share: see `grid_share`.
        teacher_cosine: cosine of the perturbations with the teacher's, on the photos it was trained on.
    """

    name: str
    regression_weight: float
    rise: tuple[float, float, float]
    noise_rise: float
    psnr: float
    grid_share: float
    teacher_cosine: float


def grid_share(perturbation: NDArray[np.floating], patch: int) -> float:
    """Share of the energy of (B, S, S, 3) perturbations in the tile that all patches of a photo have in common.

    For a perturbation without any grid it is one over the number of patches.
    """
    B, S = perturbation.shape[:2]
    grid = S // patch
    tiles = perturbation.reshape(B, grid, patch, grid, patch, 3)  # (B, G, P, G, P, 3)
    common = tiles.mean(axis=(1, 3), keepdims=True)  # (B, 1, P, 1, P, 3)
    common = common - common.mean(axis=(2, 4), keepdims=True)  # a colour cast is no grid
    centred = perturbation - perturbation.mean(axis=(1, 2), keepdims=True)
    return float(np.square(common).mean() / np.square(centred).mean())


def precompute(pixels: NDArray[np.uint8], model: FrozenDiffusion, count: int, folder: Path, steps: int) -> PhotoSet:
    """The photos, with AdvDM perturbations of 8 levels for at most `count` of the seeded tenth; kept in the folder."""
    teacher = TeacherConfig(method="advdm", budget_levels=8, steps=steps)
    chosen = np.array(seeded_share(list(pixels), 0.1, seed=0)[:count], np.int64)
    file = folder / f"teacher-{teacher.digest()[:12]}-{count}.npy"
    if not file.is_file():
        parts = [pixels[chosen[start : start + TEACHER_BATCH]] for start in range(0, len(chosen), TEACHER_BATCH)]
        np.save(file, np.concatenate([precompute_perturbations(part, [model], teacher) for part in parts]))
    return PhotoSet(pixels, chosen, np.load(file), teacher.budget_levels)


def sweep_configs(lambdas: list[float], changes: dict[str, Any]) -> dict[str, TrainingConfig]:
    """The runs by name; every one sees the same pairs, photos and noise."""
    combined = {
        f"lambda {value:g}": replace(recipe("combined", **changes), regression_weight=value) for value in lambdas
    }
    return {
        "adv_sds_only": recipe("adv_sds_only", **changes),
        **combined,
        "regression_only": recipe("regression_only", **changes),
    }


def judge(
    name: str,
    config: TrainingConfig,
    defender: Defender,
    model: FrozenDiffusion,
    photos: PhotoSet,
    held: NDArray[np.uint8],
) -> SweepResult:
    """Measures one defender at its default budget."""
    change = perturb_squares(defender, held, config.budget_default)
    samples = protection_effect(model, held, (held + change).astype(np.uint8), seed=991)
    rise = bootstrap_mean(samples.protected - samples.clean)
    near = perturb_squares(defender, photos.pixels[photos.teacher_index], photos.teacher_budget).ravel().astype(float)
    teacher = photos.teacher.ravel().astype(float)
    return SweepResult(
        name=name,
        regression_weight=config.regression_weight,
        rise=(rise.mean, rise.low, rise.high),
        noise_rise=float((samples.gaussian - samples.clean).mean()),
        psnr=float(10 * np.log10(255**2 / np.square(change.astype(float)).mean())),
        grid_share=grid_share(change.astype(float), SIZES[config.size].patch),
        teacher_cosine=float(near @ teacher / (np.linalg.norm(near) * np.linalg.norm(teacher))),
    )


def invented_faces(model: str, count: int) -> NDArray[np.uint8]:
    """Faces that the model makes up, (B, S, S, 3)."""
    prompts = [f"photo of a {age} year old {person}" for age in (25, 45, 65) for person in ("woman", "man")]
    pipeline = load_text_to_image(model)
    return np.concatenate([sample(pipeline, prompt, count=1, seed=i) for i, prompt in enumerate(prompts[:count])])


def draw(photos: NDArray[np.uint8], changes: dict[str, NDArray[np.int16]], file: Path) -> None:
    """Writes a picture: a labelled row a run, protected photos and beside each its perturbation, amplified."""
    rows = []
    for name, change in changes.items():
        label = Image.new("RGB", (LABEL, 2 * photos.shape[1]), "white")
        ImageDraw.Draw(label).text((4, photos.shape[1] - 6), name.replace("_", " "), fill="#22303c")
        cells = [np.asarray(label)]
        for photo, moved in zip(photos, change, strict=True):
            pair = [(photo + moved).astype(np.uint8), np.clip(128 + AMPLIFIED * moved, 0, 255).astype(np.uint8)]
            cells.append(np.concatenate(pair, axis=1).repeat(2, axis=0).repeat(2, axis=1))
        rows.append(np.concatenate(cells, axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(file)


def print_row(result: SweepResult) -> None:
    """Prints one line of the table."""
    mean, low, high = result.rise
    print(
        f"| {result.name} | +{mean:.4f} [{low:.4f}, {high:.4f}] | {result.noise_rise:+.4f} | {result.psnr:.1f} | "
        f"{result.grid_share:.3f} | {result.teacher_cosine:.2f} |",
        flush=True,
    )


def progress(name: str) -> Callable[[dict[str, Any]], None]:
    """Prints where a run is, now and then."""

    def on_step(record: dict[str, Any]) -> None:
        if (record["step"] + 1) % 100 == 0:
            print(f"  {name}: step {record['step'] + 1} of {record['steps']}, {record['seconds']} s", flush=True)

    return on_step


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", type=Path, required=True, help="to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="photos of people that are not in --photos")
    parser.add_argument("--held-out-photos", type=int, default=96)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=str(EMBEDDED))
    parser.add_argument("--lambdas", nargs="+", type=float, default=[1.0, 3.0, 10.0, 30.0, 100.0])
    parser.add_argument("--pairs", type=int, default=128, help="at most this many photos with a perturbation")
    parser.add_argument("--teacher-steps", type=int, default=40)
    parser.add_argument("--invented", action="store_true", help="pictures of made-up faces, which may be published")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="change the recipes' fields")
    return parser.parse_args()


def main() -> None:
    """Trains, measures, prints a table and writes the results."""
    options = parse()
    torch.set_num_threads(options.threads)
    changes = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    configs = sweep_configs(options.lambdas, changes)
    side = SIZES[configs["adv_sds_only"].size].working_resolution
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_frozen_diffusion(options.model)
    pixels = load_faces(options.photos, side).pixels
    photos = precompute(pixels, model, options.pairs, options.out, options.teacher_steps)
    held = load_faces([options.held_out], side).pixels[: options.held_out_photos]
    steps = configs["adv_sds_only"].steps
    print(f"{len(pixels)} photos, {len(photos.teacher)} pairs, {len(held)} held out, {steps} steps", flush=True)
    shown = invented_faces(options.model, PICTURES) if options.invented else held[:PICTURES]
    results, perturbations = [], {}
    for name, config in configs.items():
        models = [model] if config.adv_sds_weight else []
        defender = train_defender(config, photos, models, options.out / name.replace(" ", "-"), on_step=progress(name))
        results.append(judge(name, config, defender, model, photos, held))
        perturbations[name] = perturb_squares(defender, shown, config.budget_default)
    (options.out / "results.jsonl").write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))
    draw(shown, perturbations, options.out / "sweep.png")
    print("\n| run | added diffusion loss | equal noise | PSNR dB | grid share | cosine to teacher |")
    print("|---|---|---|---|---|---|")
    for result in results:
        print_row(result)


if __name__ == "__main__":
    main()

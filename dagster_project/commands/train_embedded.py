"""`rid train-embedded`: trains the parts of the small text-to-image model that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.progress_bar import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable

train_embedded = typer.Typer(
    no_args_is_help=True,
    help="Trains the small text-to-image model that ships: first the autoencoder, then the denoiser.",
)

Photos = Annotated[list[Path], typer.Option(help="Parquet file of captioned faces; several are read in turn.")]
Out = Annotated[Path, typer.Option(help="Folder of the result.")]
Size = Annotated[str, typer.Option(help="tiny-64, faces-64 or faces-128.")]
Steps = Annotated[int, typer.Option(help="Optimiser steps.", min=1)]
Batch = Annotated[int, typer.Option(help="Photos a step.", min=1)]
LearningRate = Annotated[float, typer.Option(help="Of AdamW; it decays linearly.")]
Seed = Annotated[int, typer.Option(help="Of every draw.", min=0)]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Threads = Annotated[int, typer.Option(help="Of torch.", min=1)]


@train_embedded.command()
def autoencoder(
    photos: Photos,
    out: Out,
    init: Annotated[Path | None, typer.Option(help="Folder of an autoencoder to continue from.")] = None,
    size: Size = "faces-64",
    steps: Steps = 2400,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    seed: Seed = 0,
    precision: Precision = "auto",
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="Keep the latents as they are; needs --init.")
    ] = False,
    threads: Threads = 2,
) -> int:
    """Trains the autoencoder and writes it to OUT/vae."""
    from rid.training.embedded.runs import AutoencoderRun, run_autoencoder

    common = _common(photos, out, init, size, steps, batch, learning_rate, seed, precision, threads)
    return _run(run_autoencoder, AutoencoderRun(**common, decoder_only=decoder_only), "autoencoder")


@train_embedded.command()
def denoiser(
    photos: Photos,
    vae: Annotated[Path, typer.Option(help="Folder of the autoencoder.")],
    out: Out,
    init: Annotated[Path | None, typer.Option(help="Folder of a pipeline to continue from.")] = None,
    text_from: Annotated[
        Path | None, typer.Option(help="Folder of a pipeline whose text encoder is taken as it is.")
    ] = None,
    prediction_type: Annotated[str, typer.Option(help="epsilon or v_prediction.")] = "epsilon",
    size: Size = "faces-64",
    steps: Steps = 4000,
    batch: Batch = 16,
    learning_rate: LearningRate = 4e-4,
    seed: Seed = 0,
    precision: Precision = "auto",
    threads: Threads = 2,
) -> int:
    """Trains the text-conditioned denoiser, and with it the text encoder, and writes the pipeline to OUT."""
    from rid.training.embedded.runs import DenoiserRun, run_denoiser

    if prediction_type not in ("epsilon", "v_prediction"):
        raise InvalidRequest(f"--prediction-type {prediction_type!r} is unknown: choose epsilon or v_prediction")
    _check_folder("--vae", vae)
    _check_folder("--text-from", text_from)
    common = _common(photos, out, init, size, steps, batch, learning_rate, seed, precision, threads)
    common |= {"vae": vae, "text_from": text_from, "prediction_type": prediction_type}
    return _run(run_denoiser, DenoiserRun(**common), "denoiser")


def _common(
    photos: list[Path],
    out: Path,
    init: Path | None,
    size: str,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    precision: str,
    threads: int,
) -> dict[str, Any]:
    """Returns the fields that both trainings have.

    Raises:
        ValueError: if a file or folder is not there, or a number or a type is not allowed.
    """
    from rid.training.config import PRECISIONS

    for file in photos:
        if not file.is_file():
            raise InvalidRequest(f"there is no file {file}: give Parquet files with a column `image`")
    _check_folder("--init", init)
    if precision not in PRECISIONS:
        raise InvalidRequest(f"--precision {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}")
    if learning_rate <= 0:
        raise InvalidRequest(f"--learning-rate {learning_rate} is not above 0")
    return {
        "photos": tuple(photos),
        "out": out,
        "init": init,
        "size": size,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "precision": precision,
        "threads": threads,
    }


def _check_folder(option: str, folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise InvalidRequest(f"{option} {folder} is no folder: give the folder of a saved model")


def _run(function: Callable[[Any, Any], Path], run: Any, stage: str) -> int:
    with ProgressBar() as bar:

        def on_step(record: dict[str, Any]) -> None:
            note = ", ".join(f"{name} {record[name]:.4g}" for name in ("loss", "psnr") if name in record)
            bar.show(stage, record["step"], record["steps"], "step", note)

        folder = function(run, on_step)
    print(f"folder {folder}")
    return exit_codes.OK

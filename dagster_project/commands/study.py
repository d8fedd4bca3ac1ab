"""`rid study`: what an attacker learns of people from clean and from protected photos."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.progress_bar import ProgressBar

if TYPE_CHECKING:
    from rid.assets.studies.run import StudyRequest
    from rid.assets.studies.tasks import StudyDone, StudyTask

NEEDED = (
    "a study needs photos of people: give a Parquet file with a column `image` (Hugging Face convention) and a column "
    "`identity`, of at least 4 people with 10 photos each: rid study --photos people.parquet"
)


@dataclass(frozen=True)
class StudyOptions:
    """The options of `rid study`; see `rid.assets.studies.run.StudyRequest`."""

    photos: str = ""
    column: str = "identity"
    out: Path = Path("study")
    full: bool = False
    factors: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    people: int = 8
    development: int | None = None
    defenders: tuple[str, ...] = ()
    embedder: str = ""
    inception: str = ""
    upscaler: str = ""
    pairs: str = ""
    contact_sheet: bool = False
    seed: int = 0


def study(
    photos: Annotated[str, typer.Option(help="Parquet file of people, with a column of identities.")] = "",
    column: Annotated[str, typer.Option(help="The column that tells people apart.")] = "identity",
    out: Annotated[Path, typer.Option(help="Folder of the study; it shows the people: keep it local.")] = Path("study"),
    full: Annotated[bool, typer.Option("--full", help="Every budget, teacher and robustness factor.")] = False,
    factors: Annotated[list[str] | None, typer.Option(help="What --full varies, once each; all by default.")] = None,
    teachers: Annotated[list[str] | None, typer.Option(help="Methods to compare with, once each.")] = None,
    people: Annotated[int, typer.Option(help="People that are attacked.", min=1)] = 8,
    development: Annotated[
        int | None, typer.Option(help="People before them that centre the embeddings; half of all by default.")
    ] = None,
    defender: Annotated[
        list[str] | None, typer.Option(help="Defenders; the first is judged.", metavar="NAME=FOLDER")
    ] = None,
    embedder: Annotated[str, typer.Option(help="ONNX file of a face network (112 x 112); dlib's by default.")] = "",
    inception: Annotated[str, typer.Option(help="File of FID's Inception-v3; looked for in torch's cache.")] = "",
    upscaler: Annotated[str, typer.Option(help="Diffusers upscaling pipeline of an attacker.")] = "",
    pairs: Annotated[str, typer.Option(help="Parquet of faces for an attacker who trains on pairs.")] = "",
    contact_sheet: Annotated[bool, typer.Option("--contact-sheet", help="Show the people on the page.")] = False,
    workers: Annotated[int | None, typer.Option(help="Worker processes; by default one a core.")] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
) -> int:
    """Attacks people with clean and with protected photos and makes a page; a study that was stopped goes on."""
    options = StudyOptions(
        photos=photos,
        column=column,
        out=out,
        full=full,
        factors=tuple(factors or ()),
        teachers=tuple(teachers or ()),
        people=people,
        development=development,
        defenders=tuple(defender or ()),
        embedder=embedder,
        inception=inception,
        upscaler=upscaler,
        pairs=pairs,
        contact_sheet=contact_sheet,
        seed=seed,
    )
    return run(options, workers)


def run(options: StudyOptions, workers: int | None) -> int:
    """Runs the command and returns its exit code."""
    from rid.assets.studies.page import aims
    from rid.assets.studies.run import PAGE, run_study
    from rid.resources.dask_workers import Workers, WorkerSettings

    shown = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    request = build_request(options, shlex.join(["rid", *shown]))
    with Workers(WorkerSettings(n_workers=workers)) as pool, ProgressBar() as bar:

        def on_unit(finished: int, total: int, task: StudyTask, done: StudyDone) -> None:
            line = f"{task.person} {task.what}{'' if done.made else ' (there)'} {done.remark}".rstrip()
            if bar.shown:
                bar.show("analyse" if task.analysed else "study", finished, total, "unit", line)
            else:
                print(f"{finished}/{total} {line}", file=sys.stderr, flush=True)

        summary = run_study(request, pool, on_unit)
    for aim in aims(summary):
        print(f"{'met   ' if aim.met else 'missed'} {aim.text}: {aim.reached}")
    print(f"page {Path(request.folder) / PAGE}")
    return exit_codes.OK


def build_request(options: StudyOptions, command: str) -> StudyRequest:
    """From a command line to a request.

    Raises:
        ValueError: if the file is not there, a defender has no name, or factors are given without a full study.
    """
    from rid.assets.studies.run import StudyRequest
    from rid.dagster_project.settings import WEIGHTS

    if not options.photos or not Path(options.photos).is_file():
        raise InvalidRequest(NEEDED if not options.photos else f"there is no file {options.photos}; {NEEDED}")
    if options.factors and not options.full:
        raise InvalidRequest("--factors chooses what a full study varies: add --full")
    shipped = {"RID": str(WEIGHTS / "default"), "adv_sds_only": str(WEIGHTS / "ablation" / "adv_sds_only")}
    return StudyRequest(
        photos=options.photos,
        folder=str(options.out.absolute()),
        models={name: str(WEIGHTS / name) for name in ("embedded-64", "embedded-64-v")},
        defenders=dict(named(item) for item in options.defenders) or shipped,
        column=options.column,
        full=options.full,
        factors=options.factors,
        teachers=options.teachers,
        development=options.development,
        people=options.people,
        seed=options.seed,
        contact_sheet=options.contact_sheet,
        command=command,
        embedder=options.embedder,
        inception=options.inception,
        upscaler=options.upscaler,
        pairs=options.pairs,
    )


def named(item: str) -> tuple[str, str]:
    """Reads NAME=FOLDER.

    Raises:
        ValueError: if one of them is missing.
    """
    name, _, folder = item.partition("=")
    if not name or not folder:
        raise InvalidRequest(f"--defender {item!r} is not NAME=FOLDER, such as RID=models/weights/default")
    return name, folder

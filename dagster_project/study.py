"""Runs a study on a Parquet file of people and says where its page is.

    python -m rid.dagster_project.study --photos people.parquet [--full] [--people 8] [--out study]

A stopped study goes on where it was. Its folder shows the people of the file: keep it local.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rid.dagster_project import exit_codes
from rid.dagster_project.settings import WEIGHTS
from rid.training.evaluation.cells import FACTORS
from rid.training.teachers.options import METHODS

if TYPE_CHECKING:
    from rid.assets.studies.run import StudyRequest
    from rid.assets.studies.tasks import StudyDone, StudyTask

SHIPPED = {"RID": str(WEIGHTS / "default"), "adv_sds_only": str(WEIGHTS / "ablation" / "adv_sds_only")}
NEEDED = (
    "a study needs photos of people: give a Parquet file with a column `image` (Hugging Face convention) and a column "
    "`identity`, of at least 4 people with 10 photos each: make study PHOTOS=people.parquet"
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", default="", help="Parquet file")
    parser.add_argument("--column", default="identity", help="column that tells people apart")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--full", action="store_true", help="every budget, teacher and robustness factor")
    parser.add_argument("--factors", nargs="+", default=[], help=f"what --full varies: {', '.join(FACTORS)}; all")
    parser.add_argument("--teachers", nargs="+", default=[], help=f"compared with: {', '.join(METHODS)}")
    parser.add_argument("--people", type=int, default=8, help="people that are attacked")
    parser.add_argument("--development", type=int, help="people before them that centre the embeddings; half of all")
    parser.add_argument("--defender", action="append", metavar="NAME=FOLDER", help="the first is judged")
    parser.add_argument("--embedder", default="", help="ONNX file of a face network (112 x 112); dlib's ResNet")
    parser.add_argument("--inception", default="", help="file of FID's Inception-v3; looked for in torch's cache")
    parser.add_argument("--upscaler", default="", help="folder of a diffusers upscaling pipeline for an attacker")
    parser.add_argument("--pairs", default="", help="Parquet of faces for an attacker who trains on pairs")
    parser.add_argument("--contact-sheet", action="store_true", help="shows the people on the page")
    parser.add_argument("--workers", type=int, help="processes; one a core")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.factors and not options.full:
        parser.error("--factors chooses what a full study varies: add --full")
    return options


def build_request(options: argparse.Namespace, command: str) -> StudyRequest:
    """From a command line to a request.

    Raises:
        ValueError: if the file is not there.
    """
    from rid.assets.studies.run import StudyRequest

    if not options.photos or not Path(options.photos).is_file():
        raise ValueError(NEEDED if not options.photos else f"there is no file {options.photos}; {NEEDED}")
    defenders = dict(item.split("=", 1) for item in options.defender or []) or SHIPPED
    return StudyRequest(
        photos=options.photos,
        folder=str(options.out.absolute()),
        models={name: str(WEIGHTS / name) for name in ("embedded-64", "embedded-64-v")},
        defenders=defenders,
        column=options.column,
        full=options.full,
        factors=tuple(options.factors),
        teachers=tuple(options.teachers),
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


def say(finished: int, total: int, task: StudyTask, done: StudyDone) -> None:
    """One line a unit."""
    import json

    cell = json.loads(task.cell_json) if task.cell_json else {"kind": "analysis" if task.analysed_json else "photos"}
    what = " ".join(str(cell[name]) for name in ("kind", "name", "budget", "transform") if cell.get(name))
    print(
        f"{finished}/{total} {task.person} {what}{'' if done.made else ' (there)'} {done.remark}".rstrip(), flush=True
    )


def main() -> int:
    """Runs the study and returns the exit code."""
    options = parse(sys.argv[1:])
    from rid.assets.studies.page import aims
    from rid.assets.studies.run import PAGE, run_study
    from rid.resources.dask_workers import Workers, WorkerSettings

    shown = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    try:
        request = build_request(options, shlex.join(["python", "-m", "rid.dagster_project.study", *shown]))
        with Workers(WorkerSettings(n_workers=options.workers)) as workers:
            summary = run_study(request, workers, say)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_codes.INVALID_REQUEST
    for aim in aims(summary):
        print(f"{'met   ' if aim.met else 'missed'} {aim.text}: {aim.reached}")
    print(f"page {Path(request.folder) / PAGE}")
    return exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())

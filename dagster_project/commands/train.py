"""`rid train`: trains a defender on photos of one's own, without Dagster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.progress_bar import ProgressBar

if TYPE_CHECKING:
    from rid.assets.teaching.teacher_run import TeacherRequest
    from rid.assets.teaching.training_run import Trained, TrainingRequest
    from rid.resources.dask_workers import Workers
    from rid.resources.frozen.diffusion_sources import DiffusionSource
    from rid.resources.frozen.latent_spaces import SpaceSource
    from rid.training.config import TrainingConfig

TEACHER_BUDGET = 8  # levels, unless the recipe allows less
RUN, DEFENDER = "run", "defender"  # in the output folder


@dataclass(frozen=True)
class TeacherOptions:
    """The options of `rid train` about the perturbations that the defender learns from.

    Attributes:
        method: of the teacher.
        share: of the photos, or of the people.
        photos: at most this many; None takes the whole share.
        steps: ascent steps.
        budget: in 8-bit levels; None takes 8, or the recipe's largest.
        step_levels: length of an ascent step.
        batch: photos whose gradients are computed at once.
        options: the method's own, NAME=JSON.
        person_column: says who is on a photo.
        set_size: photos of a person that are perturbed together.
    """

    method: str
    share: float
    photos: int | None
    steps: int
    budget: int | None
    step_levels: float
    batch: int
    options: tuple[str, ...]
    person_column: str | None
    set_size: int


@dataclass(frozen=True)
class TrainOptions:
    """The other options of `rid train`; see the command."""

    recipe: str
    photos: tuple[str, ...]
    models: tuple[str, ...]
    spaces: tuple[str, ...]
    out: Path
    init: str | None
    fields: tuple[str, ...]
    photo_side: int | None
    resolutions: tuple[str, ...]
    dtypes: tuple[str, ...]
    seed: int
    device: str
    processes: int
    threads: int | None
    workers: int | None
    name: str
    description: str
    licence: str
    register: bool


def train(
    photos: Annotated[
        list[str], typer.Option(help="Parquet file, or folder of photos or of Parquet files; several are read in turn.")
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets `defender` and, while it is trained, `run`.")],
    recipe: Annotated[str, typer.Option(help="A function of training/recipes.py.")] = "faces_64",
    models: Annotated[
        list[str] | None,
        typer.Option(help="Frozen diffusion model, once each: folder, hub id, or 'embedded', the one that ships."),
    ] = None,
    spaces: Annotated[
        list[str] | None,
        typer.Option(help="Latent space, once each, for recipes that move photos in them: sd1, sdxl, folder, hub id."),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Defender to start from: alias, digest or path.")] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field of the recipe.", metavar="FIELD=JSON")
    ] = None,
    model_resolution: Annotated[
        list[str] | None,
        typer.Option(help="Side in pixels at which every model, or one, sees photos.", metavar="[MODEL=]PIXELS"),
    ] = None,
    model_dtype: Annotated[
        list[str] | None,
        typer.Option(help="Type of every model's weights, or of one's: float32, ...", metavar="[MODEL=]TYPE"),
    ] = None,
    photo_side: Annotated[
        int | None, typer.Option(help="Side of the squares that photos are read as; larger ones are cropped.", min=8)
    ] = None,
    teacher: Annotated[str, typer.Option(help="Method of the perturbations that are learned from.")] = "advdm",
    teacher_share: Annotated[float, typer.Option(help="Share of the photos with a perturbation.", min=0, max=1)] = 0.1,
    teacher_photos: Annotated[int | None, typer.Option(help="At most this many of them.", min=0)] = None,
    teacher_steps: Annotated[int, typer.Option(help="Ascent steps a photo.")] = 40,
    teacher_budget: Annotated[int | None, typer.Option(help="Levels; by default 8, or the recipe's largest.")] = None,
    teacher_step_levels: Annotated[float, typer.Option(help="Length of an ascent step.")] = 1.0,
    teacher_batch: Annotated[int, typer.Option(help="Photos whose gradients are computed at once.")] = 8,
    teacher_option: Annotated[
        list[str] | None, typer.Option(help="The method's own: training/teachers/options.py.", metavar="NAME=JSON")
    ] = None,
    person_column: Annotated[
        str | None, typer.Option(help="Column that says who is on a photo; for methods that learn a person.")
    ] = None,
    set_size: Annotated[int, typer.Option(help="Photos of a person that are perturbed together.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    processes: Annotated[
        int, typer.Option(help="Processes of the training, one a GPU; 0 is as many as there are GPUs.", min=0)
    ] = 0,
    threads: Annotated[int | None, typer.Option(help="Of torch on a CPU.", min=1)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode photos; by default one a core, 0 for this one.")
    ] = None,
    name: Annotated[str, typer.Option(help="Short name of the defender.")] = "defender",
    description: Annotated[str, typer.Option(help="On its card; by default what it was trained against.")] = "",
    licence: Annotated[str, typer.Option(help="Of its weights.")] = "not stated",
    register: Annotated[bool, typer.Option("--register", help="Also register it under RID_HOME.")] = False,
) -> int:
    """Trains a defender on photos against frozen models; a training that was stopped goes on."""
    teaching = TeacherOptions(
        method=teacher,
        share=teacher_share,
        photos=teacher_photos,
        steps=teacher_steps,
        budget=teacher_budget,
        step_levels=teacher_step_levels,
        batch=teacher_batch,
        options=tuple(teacher_option or ()),
        person_column=person_column,
        set_size=set_size,
    )
    options = TrainOptions(
        recipe=recipe,
        photos=tuple(photos),
        models=tuple(models or ()),
        spaces=tuple(spaces or ()),
        out=out,
        init=init,
        fields=tuple(fields or ()),
        photo_side=photo_side,
        resolutions=tuple(model_resolution or ()),
        dtypes=tuple(model_dtype or ()),
        seed=seed,
        device=device,
        processes=processes,
        threads=threads,
        workers=workers,
        name=name,
        description=description,
        licence=licence,
        register=register,
    )
    return run(options, teaching)


def run(options: TrainOptions, teaching: TeacherOptions) -> int:
    """Runs the command and returns its exit code."""
    from rid.assets.teaching.training_run import TrainingWorkers, run_training
    from rid.dagster_project.settings import rid_home
    from rid.resources.dask_workers import Workers, WorkerSettings

    with (
        Workers(WorkerSettings(n_workers=options.workers, use_gpus=False)) as photos,
        Workers(_teacher_settings(options)) as teachers,
        Workers(WorkerSettings(n_workers=0)) as training,
        ProgressBar() as bar,
    ):

        def report(progress: Any) -> None:
            bar.show(progress.stage, progress.done, progress.total, progress.unit, progress.note)

        request = build_request(options, teaching, photos, report)
        trained = run_training(request, TrainingWorkers(photos, teachers, training), report)
    folder = options.out / DEFENDER
    if options.register:
        rid_home().registry().register(folder)
    print(describe(trained, folder, registered=options.register))
    return exit_codes.OK


def build_request(options: TrainOptions, teaching: TeacherOptions, photos: Workers, report: Any) -> TrainingRequest:
    """From a command line to a request; the photos are catalogued on the way.

    Raises:
        ValueError: with one sentence, if it cannot be done.
        FileNotFoundError: if there are no photos.
    """
    from rid.assets.teaching.photo_sources import catalogue_sources
    from rid.assets.teaching.training_run import TrainingRequest
    from rid.assets.teaching.training_task import CardText
    from rid.dagster_project.settings import rid_home
    from rid.models.networks import SIZES
    from rid.resources.storage import Storage
    from rid.training.devices import check_device
    from rid.training.recipes import recipe

    check_device(options.device)
    config = recipe(options.recipe, **{"seed": options.seed, **json_fields("--set", options.fields)})
    home, side = Storage(str(options.out / RUN)), options.photo_side or SIZES[config.size].working_resolution
    teacher = teacher_request(options, teaching, config, home, side)
    return TrainingRequest(
        home=home,
        catalogs=catalogue_sources(home.child("catalogs"), [Storage(url) for url in options.photos], photos, report),
        config=config,
        models=model_sources(options) if config.uses_models else (),
        spaces=space_list(options) if config.space_weight else (),
        side=side,
        teacher=teacher,
        initial=rid_home().registry().resolve(options.init) if options.init else None,
        card=CardText(options.name, options.description, options.licence),
        run=home.child("training", "defender"),
        output=Storage(str(options.out / DEFENDER)),
        perturb=True,
        processes=options.processes,
        device=options.device,
        threads=options.threads,
    )


def teacher_request(
    options: TrainOptions, teaching: TeacherOptions, config: TrainingConfig, home: Any, side: int
) -> TeacherRequest | None:
    """The perturbations to learn from; None if the recipe or the share leaves them out.

    Raises:
        ValueError: if a number is out of range, the method has no such option, or it needs to know who is on a photo.
    """
    from rid.assets.teaching.teacher_cache import Selection
    from rid.assets.teaching.teacher_run import TeacherRequest
    from rid.training.teachers.config import TeacherConfig

    teacher = TeacherConfig.from_json(
        {
            "method": teaching.method,
            "budget_levels": teaching.budget or min(TEACHER_BUDGET, config.budget_max),
            "steps": teaching.steps,
            "step_levels": teaching.step_levels,
            "batch": teaching.batch,
            "seed": options.seed,
            "options": json_fields("--teacher-option", teaching.options),
        }
    )
    if not config.regression_weight or not teaching.share:
        return None
    if teacher.set_wise and not teaching.person_column:
        raise InvalidRequest(
            f"teacher {teacher.method!r} perturbs the photos of one person together: name the column that tells people "
            "apart with --person-column"
        )
    set_by, set_size = (teaching.person_column or "", teaching.set_size) if teacher.set_wise else ("", 1)
    return TeacherRequest(
        home=home,
        teacher=teacher,
        models=model_sources(options),
        side=side,
        selection=Selection(teaching.share, options.seed, set_by, set_size, teaching.photos),
        device=options.device,
    )


def model_sources(options: TrainOptions) -> tuple[DiffusionSource, ...]:
    """The frozen models, with the resolutions and types that were asked for.

    Raises:
        ValueError: if there is none, or one cannot be used.
    """
    from rid.dagster_project.settings import WEIGHTS
    from rid.resources.frozen.diffusion_sources import diffusion_sources
    from rid.resources.frozen.hub import pinned

    if not options.models:
        raise InvalidRequest("a frozen diffusion model is needed: --models with a folder, a hub id, or 'embedded'")
    fields: dict[str, dict[str, Any]] = {model: {} for model in options.models}
    for model, pixels in per_model("--model-resolution", options.resolutions, options.models):
        if not pixels.isdigit():
            raise InvalidRequest(f"--model-resolution {pixels!r} is no number of pixels: give 512 or MODEL=512")
        fields[model]["native_resolution"] = int(pixels)
    for model, dtype in per_model("--model-dtype", options.dtypes, options.models):
        fields[model]["dtype"] = dtype
    return tuple(pinned(diffusion_sources(options.models, WEIGHTS / "embedded-64", fields)))


def space_list(options: TrainOptions) -> tuple[SpaceSource, ...]:
    """The latent spaces.

    Raises:
        ValueError: if there is none, or one cannot be used.
    """
    from rid.dagster_project.settings import WEIGHTS
    from rid.resources.frozen.hub import pinned
    from rid.resources.frozen.latent_spaces import space_sources

    if not options.spaces:
        raise InvalidRequest("a latent space is needed: --spaces with sd1, sdxl, sd3, flux1, a folder, or a hub id")
    return tuple(pinned(space_sources(options.spaces, WEIGHTS / "embedded-64")))


def per_model(option: str, items: Sequence[str], models: Sequence[str]) -> list[tuple[str, str]]:
    """Reads `VALUE` for every model, or `MODEL=VALUE` for one; what comes later counts.

    Raises:
        ValueError: if a model is not listed.
    """
    found = []
    for item in items:
        model, equals, value = item.rpartition("=")
        if equals and model not in models:
            raise InvalidRequest(f"{option} names {model!r}, which is not among --models: {', '.join(models)}")
        found += [(one, value) for one in ([model] if equals else models)]
    return found


def json_fields(option: str, items: Sequence[str]) -> Mapping[str, Any]:
    """Reads FIELD=JSON items.

    Raises:
        ValueError: naming the item that is no such thing.
    """
    found = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError as error:
            raise InvalidRequest(
                f"{option} {item!r} is not FIELD=JSON, such as steps=600 or precision='\"float32\"'"
            ) from error
    return found


def describe(trained: Trained, folder: Path, *, registered: bool) -> str:
    """Returns what a person reads at the end."""
    config = json.loads((folder / "config.json").read_bytes())
    lines = [
        f"defender          {config['name']} {trained.digest[:12]}" + ("" if trained.now else " (was trained already)"),
        f"folder            {folder}",
        f"learned from      {trained.photos} photos, {trained.perturbations} of them with a perturbation",
        f"onnx error        {config['onnx']['max_error_of_budget']:.2g} of the budget at most",
        f"log               {trained.run.url}",
    ]
    if trained.left_out:
        lines.append(f"{trained.left_out} photos could not be decoded and were left out")
    if registered:
        lines.append(f"registered: make it the default with `rid defenders promote {trained.digest[:12]}`")
    return "\n".join(lines)


def _teacher_settings(options: TrainOptions) -> Any:
    """A worker a GPU where there are several, else this process, which shows each step."""
    from rid.resources.dask_workers import WorkerSettings
    from rid.resources.local_clusters import several_gpus

    return WorkerSettings() if options.device != "cpu" and several_gpus() else WorkerSettings(n_workers=0)

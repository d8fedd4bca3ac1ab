"""The attacker's side: people are taught to diffusion models from clean and from protected photos, and compared."""

from pathlib import Path

from dagster import AssetExecutionContext, Config, MaterializeResult, MetadataValue, asset
from pydantic import Field

from rid.assets.operations import GPU_POOL, RETRIES, TRAINING_OWNERS, mistakes_are_final
from rid.assets.shown_pictures import inline_picture
from rid.assets.studies.page import aims, label
from rid.assets.studies.pictures import cells_picture
from rid.assets.studies.run import PAGE, StudyRequest, run_study
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places
from rid.resources.storage import Storage
from rid.training.evaluation.cells import FACTORS


class StudyConfig(Config):
    """Settings of a study: who is attacked, and how far it goes."""

    photos: str = Field(
        description="Parquet file of people that workers can read, with `image` and an identity column."
    )
    column: str = Field(default="identity", description="The column that tells people apart.")
    defender: str = Field(default="default", description="Alias, digest or path of the defender that is judged.")
    beside: list[str] = Field(default=[], description="Aliases, digests or paths of defenders shown beside it.")
    full: bool = Field(
        default=False, description="Every budget, teacher and robustness factor: hours instead of minutes."
    )
    factors: list[str] = Field(default=[], description=f"What a full study varies: {', '.join(FACTORS)}; all if empty.")
    teachers: list[str] = Field(
        default=[], description="Methods to compare with; encoder and advdm, or in a full study nine, if empty."
    )
    people: int = Field(default=8, description="People that are attacked; those before them centre the embeddings.")
    contact_sheet: bool = Field(default=False, description="Show the people on the page.")
    embedder: str = Field(
        default="", description="ONNX file of another face network, 112 x 112 aligned faces; dlib's if empty."
    )
    inception: str = Field(
        default="", description="File of FID's Inception-v3; one in torch's cache, or none, if empty."
    )
    upscaler: str = Field(
        default="", description="Diffusers upscaling pipeline of an attacker, folder or hub id; the model if empty."
    )
    pairs: str = Field(
        default="", description="Parquet of faces for the attacker who trains on pairs; development people if empty."
    )
    seed: int = Field(default=0, description="Of every draw.")


def named_defenders(config: StudyConfig) -> dict[str, str]:
    """Names of the defenders in the study, and where they are: the judged one first.

    Raises:
        ValueError: if two would have the same name.
    """
    named = {"RID": config.defender} | {Path(one).name: one for one in config.beside}
    if len(named) <= len(config.beside):
        raise ValueError(f"defenders beside the judged one (RID) need names of their own; given {config.beside}")
    return named


@asset(
    group_name="evaluation",
    kinds={"html", "dask", "torch"},
    owners=TRAINING_OWNERS,
    pool=GPU_POOL,
    retry_policy=RETRIES,
    description=__doc__,
)
def personalization_study(
    context: AssetExecutionContext, config: StudyConfig, places: Places, dask: DaskCluster
) -> MaterializeResult:  # type: ignore[type-arg]
    """Runs the units that are missing, on GPU workers if there are any, and makes the page."""
    folder = Storage(places.home).child("studies", Path(config.photos).stem)
    registry = places.registry()
    with mistakes_are_final(), dask.connect() as workers:
        request = StudyRequest(
            photos=config.photos,
            folder=folder.url,
            models={name: str(Path(places.weights) / name) for name in ("embedded-64", "embedded-64-v")},
            defenders={name: registry.resolve(which).location for name, which in named_defenders(config).items()},
            column=config.column,
            full=config.full,
            factors=tuple(config.factors),
            teachers=tuple(config.teachers),
            people=config.people,
            seed=config.seed,
            contact_sheet=config.contact_sheet,
            embedder=config.embedder,
            inception=config.inception,
            upscaler=config.upscaler,
            pairs=config.pairs,
            command="asset personalization_study",
        )
        summary = run_study(request, workers, lambda done, total, *_: context.log.info(f"{done} of {total} units"))
    plot = cells_picture([(label(row.cell), row.ism, row.cell.kind) for row in summary.cells], "png")
    return MaterializeResult(
        metadata={
            "page": MetadataValue.url(folder.uri(PAGE)),
            "void": summary.void,
            "people": len(summary.people),
            "aims": MetadataValue.md(
                "\n".join(f"- {'met' if aim.met else '**missed**'}: {aim.text}: {aim.reached}" for aim in aims(summary))
            ),
            "similarity": inline_picture("similarity", plot, "png"),
        }
    )

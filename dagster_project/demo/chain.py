"""The demo's run of every asset, in this process, with the definitions that a deployment loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from dagster import AssetCheckSeverity, AssetKey, DagsterInstance, Definitions

from rid.assets.partitions import DROPS
from rid.dagster_project.settings import WEIGHTS
from rid.resources.frozen.diffusion_sources import EMBEDDED

DROP = "studio"
UNSEEN = str(WEIGHTS / "embedded-64-v")  # a second model for the report, which the demo's defender never meets
QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


@dataclass(frozen=True)
class DemoSettings:
    """The extent of the demo's training and of its report; its defender is thrown away.

    Attributes:
        teacher_steps: ascent steps a photo.
        training_steps: of the defender.
        report_photos: protected photos that the report measures.
        budget_levels: the budget.
    """

    teacher_steps: int = 15
    training_steps: int = 120
    report_photos: int = 12
    budget_levels: int = 8


@dataclass(frozen=True)
class Stage:
    """One asset that was materialised: its name, what it says of itself, and how long it took."""

    asset: str
    metadata: dict[str, Any]
    seconds: float


def run_chain(
    definitions: Definitions,
    instance: DagsterInstance,
    settings: DemoSettings,
    on_stage: Callable[[Stage], None],
) -> dict[str, Stage]:
    """Materialises the chain on the drop and returns its stages by asset.

    Args:
        definitions: with places and workers.
        instance: where the runs are recorded.
        settings: how much is trained.
        on_stage: called after each asset.
    """
    instance.add_dynamic_partitions(DROPS, [DROP])
    teacher = {
        "models": [EMBEDDED],
        "share": 0.5,
        "steps": settings.teacher_steps,
        "budget_levels": settings.budget_levels,
    }
    training = {**teacher, "drops": [DROP], "recipe": "demo", "recipe_fields": {"steps": settings.training_steps}}
    report = {"models": [EMBEDDED, UNSEEN], "photos": settings.report_photos, "draws": 4, "contact_sheet": 6}
    chain: dict[str, tuple[str, dict[str, Any]]] = {
        "photo_catalog": ("drop_chain", {}),
        "teacher_perturbations": ("teacher_perturbations", teacher),
        "defender": ("defender", training | {"name": "demo"}),
        "defender_onnx": ("defender_onnx", {"promote": True, "although_it_fails": True}),  # it is thrown away
        "protected_catalog": ("drop_chain", {}),
        "protection_report": ("drop_chain", {"report": report}),
    }
    stages = {}
    for asset, (step, config) in chain.items():
        stages[asset] = _materialise(definitions, instance, asset, step, config)
        on_stage(stages[asset])
    return stages


def _materialise(
    definitions: Definitions, instance: DagsterInstance, asset: str, step: str, config: dict[str, Any]
) -> Stage:
    began = monotonic()
    partitioned = definitions.resolve_assets_def(asset).partitions_def is not None
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        run_config={"ops": {step: {"config": config}}, **QUIET},
        instance=instance,
        partition_key=DROP if partitioned else None,
        asset_selection=[AssetKey(asset)],
    )
    failed = [
        check.check_name
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == AssetCheckSeverity.ERROR
    ]
    if failed:
        raise RuntimeError(f"asset {asset}: the checks {', '.join(failed)} failed")
    (event,) = result.asset_materializations_for_node(step)[:1]
    values = {name: value.value for name, value in event.metadata.items()}
    return Stage(asset, values, monotonic() - began)

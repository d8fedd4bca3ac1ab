"""The ONNX file of a registered defender: folded, exported, checked against torch, registered with its sha256."""

import tempfile
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    Config,
    MaterializeResult,
    asset,
)
from pydantic import Field

from rid.assets.defender import defender
from rid.assets.operations import TRAINING_OWNERS, mistakes_are_final
from rid.assets.studies.defender_gates import promote
from rid.resources.defender_registry import DEFAULT_ALIAS, DefenderEntry, fetch_defender
from rid.resources.places import Places
from rid.training.evaluation.gates.figures import failures, figures_in, summary, verdict

GATES_CHECK = "gates_are_passed"
GATES_TEXT = (
    "The figures in the defender's card pass the gates: displacement against noise of equal norm, no fixed pattern, "
    "blind subtraction, look. `rid defenders measure` makes them."
)


class ExportConfig(Config):
    """The defender that is exported."""

    defender: str = Field(default="", description="Digest; empty takes the one that the asset defender made last.")
    promote: bool = Field(default=False, description="Make it the default: drops protected by another are outdated.")
    although_it_fails: bool = Field(
        default=False, description="Promote it also if it was not measured, or fails its gates."
    )


@asset(
    deps=[defender],
    group_name="training",
    kinds={"onnx"},
    owners=TRAINING_OWNERS,
    check_specs=[AssetCheckSpec(GATES_CHECK, asset="defender_onnx", description=GATES_TEXT)],
    description=__doc__,
)
def defender_onnx(context: AssetExecutionContext, config: ExportConfig, places: Places) -> MaterializeResult:  # type: ignore[type-arg]
    """Exports a defender that has no ONNX file yet; one that has is left as it is."""
    with mistakes_are_final():
        shown = add_onnx_file(config.defender or _last_digest(context), places)
        registry = places.registry()
        entry = registry.resolve(shown["digest"])
        if config.promote and registry.aliases().get(DEFAULT_ALIAS) != entry.digest:
            promote(registry, entry.digest, although_it_fails=config.although_it_fails)
        return MaterializeResult(metadata=shown, check_results=[gates_check(entry)])


def gates_check(entry: DefenderEntry) -> AssetCheckResult:
    """Holds the figures in a defender's card against the gates; a failure warns, since promotion is what refuses."""
    figures = figures_in(entry.config)
    return AssetCheckResult(
        check_name=GATES_CHECK,
        passed=figures is not None and not failures(figures),
        severity=AssetCheckSeverity.WARN,
        description=verdict(figures),
        metadata={"figures": "\n\n".join(summary(figures)) if figures is not None else "not measured"},
    )


def add_onnx_file(name: str, places: Places) -> dict[str, Any]:
    """Exports the defender of that name, registers the file, and returns what the asset shows."""
    registry = places.registry()
    entry = registry.resolve(name)
    if any(name.endswith(".onnx") for name in entry.config["files"]):
        errors = entry.config.get("onnx", {})
    else:
        from rid.training.exporting import add_onnx

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name, data in fetch_defender(entry.location, entry.digest, entry.config["files"]).items():
                (folder / name).write_bytes(data)
            (folder / "config.json").write_text(entry.config_text(), encoding="utf-8")
            check = add_onnx(folder)
            registry.register(folder)
        errors = {"mean_error_of_budget": check.mean_error, "max_error_of_budget": check.max_error}
    return {"digest": entry.digest, **errors}


def _last_digest(context: AssetExecutionContext) -> str:
    event = context.instance.get_latest_materialization_event(defender.key)
    if event is None or event.asset_materialization is None:
        raise ValueError("no defender was trained yet: materialise the asset defender, or name one in the run")
    return str(event.asset_materialization.metadata["digest"].value)

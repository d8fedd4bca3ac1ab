"""The ONNX file of a registered defender: folded, exported, checked against torch, registered with its sha256."""

import tempfile
from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, Config, MaterializeResult, asset
from pydantic import Field

from rid.assets.defender import defender
from rid.assets.operations import TRAINING_OWNERS, mistakes_are_final
from rid.resources.defender_registry import DEFAULT_ALIAS, fetch_defender
from rid.resources.places import Places


class ExportConfig(Config):
    """Which defender is exported."""

    defender: str = Field(default="", description="Digest; empty takes the one that the asset defender made last.")
    promote: bool = Field(default=False, description="Make it the default: drops protected by another are outdated.")


@asset(
    deps=[defender],
    group_name="training",
    kinds={"onnx"},
    owners=TRAINING_OWNERS,
    description=__doc__,
)
def defender_onnx(context: AssetExecutionContext, config: ExportConfig, places: Places) -> MaterializeResult:  # type: ignore[type-arg]
    """Exports a defender that has no ONNX file yet; one that has is left as it is."""
    with mistakes_are_final():
        return MaterializeResult(
            metadata=add_onnx_file(config.defender or _last_digest(context), config.promote, places)
        )


def add_onnx_file(name: str, promote: bool, places: Places) -> dict[str, Any]:
    """Exports the defender of that name, registers the file, promotes it if asked, and returns what the asset shows."""
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
    if promote and registry.aliases().get(DEFAULT_ALIAS) != entry.digest:
        registry.promote(entry.digest)
    return {"digest": entry.digest, **errors}


def _last_digest(context: AssetExecutionContext) -> str:
    event = context.instance.get_latest_materialization_event(defender.key)
    if event is None or event.asset_materialization is None:
        raise ValueError("no defender was trained yet: materialise the asset defender, or name one in the run")
    return str(event.asset_materialization.metadata["digest"].value)

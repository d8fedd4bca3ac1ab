"""Adds the ONNX file to a defender folder."""

from __future__ import annotations

import gc
import json
from pathlib import Path

from rid.models.checkpoint import file_sha256, load_defender
from rid.models.networks import fold_network
from rid.models.onnx_export import ExportCheck, check_onnx, export_onnx

ONNX_NAME = "model.onnx"


def add_onnx(folder: Path) -> ExportCheck:
    """Exports the folder's network to `model.onnx`, checks it against torch, and records its sha256 in config.json.

    The digest of the defender does not change: it names the weights.
    """
    # The weights are read twice: the exporter holds several copies of them, and at full size each is a gigabyte.
    export_onnx(fold_network(load_defender(folder)[0]), folder / ONNX_NAME)
    gc.collect()  # it leaves them in reference cycles
    defender, config = load_defender(folder)
    check = check_onnx(defender, folder / ONNX_NAME)
    config["files"][ONNX_NAME] = file_sha256(folder / ONNX_NAME)
    config["onnx"] = {"mean_error_of_budget": check.mean_error, "max_error_of_budget": check.max_error}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return check

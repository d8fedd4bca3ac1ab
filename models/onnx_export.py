"""Exports a defender to ONNX and checks the file against the network it came from.

The file has inputs `image` (N, 3, S, S) float32 in [-1, 1] and `budget_levels` (N,) float32, and one output
`perturbation` (N, 3, S, S) float32 in 8-bit levels. A convolutional defender's takes (N, 3, H, W) of any sides that its
`multiple` divides; that and its `largest_side` are in the file's metadata. Weights are inside the file.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.onnx import ONNXProgram

from rid.models.convolutional import ConvolutionalSize
from rid.models.engines import LARGEST_SIDE, MULTIPLE
from rid.models.networks import Network

OPSET = 20
FLOAT_TOLERANCE = 1e-4  # of the budget
# Vectors of fixed length amplify rounding where a picture has hardly any texture; a photo's levels are whole numbers.
CONVOLUTIONAL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportCheck:
    """The distance of an exported file from its network, as shares of the budget, over a seeded batch."""

    mean_error: float
    max_error: float


def export_onnx(folded: Network, path: Path) -> None:
    """Exports a network that `rid.models.networks.fold_network` returned, in float32, to `path`."""
    side = folded.size.working_resolution
    example = (torch.zeros(2, 3, side, side), torch.ones(2))
    batch: Any = torch.export.Dim("batch", min=1, max=1024)
    image: dict[int, Any] = {0: batch}
    if isinstance(folded.size, ConvolutionalSize):
        image |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with _without_exporter_chatter():
        program = torch.onnx.export(
            folded.cpu(),
            example,
            input_names=["image", "budget_levels"],
            output_names=["perturbation"],
            dynamic_shapes=(image, {0: batch}),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    _remove_traces(program)
    if isinstance(folded.size, ConvolutionalSize):
        notes = {MULTIPLE: str(folded.size.multiple), LARGEST_SIDE: str(folded.size.largest_side)}
        program.model.metadata_props.update(notes)
    program.save(str(path), external_data=False)


def _remove_traces(program: ONNXProgram) -> None:
    """Removes the exporter's notes on each node and value: they name the exporting machine's folders."""
    graph = program.model.graph
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()


def check_onnx(defender: Network, path: Path) -> ExportCheck:
    """Compares an exported file with the network before folding.

    Raises:
        ValueError: if the file's output differs from the network's by more than its tolerance, in shares of the budget.
    """
    check = compare(defender, path)
    tolerance = CONVOLUTIONAL_TOLERANCE if isinstance(defender.size, ConvolutionalSize) else FLOAT_TOLERANCE
    if not check.max_error <= tolerance:
        raise ValueError(
            f"{path}: the exported network differs from the defender by {check.max_error:.2g} of the budget"
        )
    return check


@contextlib.contextmanager
def _without_exporter_chatter() -> Iterator[None]:
    """Hides that torchvision's operators are not there, and warnings about torch's own code; errors still come out."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*axis name: batch.*")
            yield
    finally:
        registration.setLevel(level)


@torch.no_grad()
def compare(defender: Network, path: Path, *, photos: int = 4, seed: int = 0) -> ExportCheck:
    """Runs the file and the network on smooth seeded images, one at a time, and compares their outputs."""
    import onnxruntime

    side = defender.size.working_resolution
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(photos, 3, 8, 8, generator=generator) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    budget = torch.full((1,), float(defender.budget.default if defender.budget else 1))
    errors = []
    for index in range(photos):
        image = images[index : index + 1]
        expected = defender(image, budget).numpy()
        (got,) = session.run(["perturbation"], {"image": image.numpy(), "budget_levels": budget.numpy()})
        errors.append(np.abs(np.asarray(got) - expected) / budget.item())
    error = np.concatenate(errors)
    return ExportCheck(mean_error=float(error.mean()), max_error=float(error.max()))

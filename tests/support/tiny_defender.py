"""A defender of a few hundred weights for tests: real ONNX, real folder layout, no training.

Its perturbation is tanh(a fixed coarse pattern + a 3x3 convolution of the photo), so it depends on the photo, keeps
the budget, and survives JPEG. `strength=0` gives a defender that changes nothing; `seed` gives another digest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

SIDE = 64  # working resolution


def build_model(*, strength: float = 2.0, seed: int = 0, side: int = SIDE) -> bytes:
    """ONNX bytes: `image` (N, 3, S, S) and `budget_levels` (N,) in, `perturbation` (N, 3, S, S) in levels out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    blocks = rng.choice([-strength, strength], size=(side // 8, side // 8))
    pattern = np.broadcast_to(np.kron(blocks, np.ones((8, 8))), (1, 3, side, side)).astype(np.float32)
    kernel = (rng.normal(size=(3, 3, 3, 3)) * 0.05 * (strength > 0)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["features", "pattern"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["direction"]),
        helper.make_node("Reshape", ["budget_levels", "column"], ["budget_column"]),
        helper.make_node("Mul", ["direction", "budget_column"], ["perturbation"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny_defender",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, side, side]),
            helper.make_tensor_value_info("budget_levels", TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor_value_info("perturbation", TensorProto.FLOAT, ["N", 3, side, side])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(pattern.copy(), "pattern"),
            numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "column"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_tiny_defender(folder: Path, *, strength: float = 2.0, seed: int = 0) -> str:
    """Writes config.json, weights.safetensors and model.onnx into `folder` and returns the digest."""
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"seed": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + np.array([seed, strength], np.float32).tobytes()
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.onnx").write_bytes(build_model(strength=strength, seed=seed))
    architecture = {"kind": "tiny", "working_resolution": SIDE}
    weight_files = {"weights.safetensors": hashlib.sha256(weights).hexdigest()}
    digest = _digest({"architecture": architecture, "weights": weight_files})
    config = {
        "digest": digest,
        "name": f"tiny-{seed}",
        "description": "A fixed coarse pattern for tests; it protects nothing.",
        "architecture": architecture,
        "budget": {"min": 1, "max": 16, "default": 6},
        "working_resolution": SIDE,
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
            if path.name != "config.json"
        },
        "training": {},
        "licence": "MIT",
        "origin": "tests/support/tiny_defender.py",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return digest


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

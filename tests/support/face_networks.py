"""A small face network with random weights in the usual form: (1, 3, 112, 112) in, (1, 32) out."""

from pathlib import Path

import numpy as np


def write_face_network(file: Path, *, seed: int = 0, side: int = 112, **metadata: str) -> Path:
    """Writes a convolution of stride 16, a ReLU and a projection; `metadata` says how pictures are to be fed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    places = (side // 16) ** 2
    weights = {
        "kernel": random.normal(0, 0.1, (8, 3, 16, 16)),
        "projection": random.normal(0, 0.1, (8 * places, 32)),
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["patches"], strides=[16, 16]),
        helper.make_node("Relu", ["patches"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 32])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, file)
    return file

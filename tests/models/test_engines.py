import numpy as np
import pytest
from tiny_defender import SIDE, build_model

from rid.models.engines import OnnxEngine, precision_of


def squares(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, SIDE, SIDE)).astype(np.float32)


def test_the_engine_names_what_computes() -> None:
    import onnxruntime

    engine = OnnxEngine(build_model())
    assert engine.name == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider fp32"
    assert engine.working_resolution == SIDE


def test_perturbations_are_in_levels_and_scale_with_the_budget() -> None:
    engine = OnnxEngine(build_model())
    small, large = (engine.perturb(squares(1), budget) for budget in (2.0, 16.0))
    assert small.shape == (1, 3, SIDE, SIDE) and small.dtype == np.float32
    assert 0 < np.abs(small).max() <= 2
    np.testing.assert_allclose(large, 8 * small, rtol=1e-5, atol=1e-5)


def test_a_square_does_not_depend_on_its_neighbours() -> None:
    engine = OnnxEngine(build_model())
    alone = engine.perturb(squares(1), 6.0)
    among = engine.perturb(np.concatenate([squares(1), squares(4, seed=1)]), 6.0)
    assert np.array_equal(alone[0], among[0])


def test_two_sessions_and_any_number_of_threads_agree() -> None:
    first = OnnxEngine(build_model()).perturb(squares(2), 6.0)
    second = OnnxEngine(build_model(), threads=2).perturb(squares(2), 6.0)
    assert np.array_equal(first, second)


def foreign_model(**changes: object) -> bytes:
    """A model that does nothing but has the interface of a defender, except for `changes`."""
    from onnx import TensorProto, helper

    options = {"image": "image", "budget": "budget_levels", "output": "perturbation", "shape": ["N", 3, 8, 8]} | changes
    kind = TensorProto.DataType.Value(options.get("kind", "FLOAT"))
    graph = helper.make_graph(
        [helper.make_node("Identity", [options["image"]], [options["output"]])],
        "foreign",
        [
            helper.make_tensor_value_info(options["image"], kind, options["shape"]),
            helper.make_tensor_value_info(options["budget"], TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor_value_info(options["output"], kind, options["shape"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "pixels"},
        {"budget": "epsilon"},
        {"output": "protected"},
        {"shape": ["N", 3, 8, 9]},
        {"shape": ["N", 1, 8, 8]},
        {"shape": ["N", 3, "S", "S"]},
        {"kind": "DOUBLE"},
    ],
)
def test_a_foreign_network_is_refused_with_one_sentence(changes: dict[str, object]) -> None:
    assert OnnxEngine(foreign_model()).working_resolution == 8
    with pytest.raises(ValueError, match="a defender has float image") as refused:
        OnnxEngine(foreign_model(**changes))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["empty", "text", "cut"])
def test_what_is_no_onnx_file_is_refused(kind: str) -> None:
    data = {"empty": b"", "text": b"not a model", "cut": build_model()[:300]}[kind]
    with pytest.raises(ValueError, match="cannot be opened"):
        OnnxEngine(data)


def test_weights_outside_the_file_are_refused() -> None:
    import onnx

    model = onnx.load_from_string(build_model())
    for tensor in model.graph.initializer:
        if tensor.name == "pattern":
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "weights.bin"
    with pytest.raises(ValueError, match="cannot be opened"):
        OnnxEngine(model.SerializeToString())


def test_quantised_files_are_named_so() -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])],
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4])],
    )
    assert precision_of(helper.make_model(graph).SerializeToString()) == "int8"
    assert precision_of(build_model()) == "fp32"

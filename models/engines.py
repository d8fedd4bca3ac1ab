"""Engines run a defender's network; each names itself, so that receipts say what computed a perturbation.

N pictures of sides H and W; S working resolution.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.float32]
INPUTS, OUTPUTS = ("image", "budget_levels"), ("perturbation",)
GPU_BATCH = 16
MULTIPLE, LARGEST_SIDE = "multiple", "largest_side"  # in the metadata of a network for any size
QUANTISED_OPERATORS = (b"DynamicQuantizeLinear", b"DequantizeLinear", b"MatMulInteger", b"QLinear", b"ConvInteger")


class Engine(Protocol):
    """The interface of a network that a protector uses.

    Attributes:
        name: library, version, provider and precision, as receipts record them.
        working_resolution: S, the side in pixels of the squares that the network takes; of one for any size the
            longest short side of a picture.
        multiple: of a network for any size, what divides the sides of its pictures; 0 for one that takes squares.
    """

    name: str
    working_resolution: int
    multiple: int

    def perturb(self, pictures: Pictures, budget_levels: float) -> Pictures:
        """Returns (N, 3, H, W) perturbations in 8-bit levels of (N, 3, H, W) pictures in [-1, 1]."""


class OnnxEngine:
    """Runs an exported defender with ONNX Runtime, on CUDA where the installed build offers it, else on the CPU.

    On the CPU every picture is computed alone, on a GPU together with the others of one call. A call holds the pictures
    of one photo, so a result never depends on other photos.
    """

    def __init__(self, model: bytes, *, threads: int = 1, providers: tuple[str, ...] | None = None) -> None:
        """Opens a session.

        Args:
            model: the bytes of the ONNX file, weights inside.
            threads: threads of one operator on the CPU.
            providers: ONNX Runtime providers in order of preference; None takes CUDA if it is there, then the CPU.

        Raises:
            ValueError: with one sentence, if the file is not a defender as `rid.models.onnx_export` writes it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; warnings of graph optimisation are no concern of a catalog's operator
        # Weights in other files are not covered by the digest: without this they are looked for in the current folder.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the core
        available = onnxruntime.get_available_providers()
        wanted = providers or ("CUDAExecutionProvider", "CPUExecutionProvider")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=[name for name in wanted if name in available]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ValueError(f"the defender's ONNX file cannot be opened: {str(error).splitlines()[0]}") from error
        self.working_resolution, self.multiple = self._check_interface()
        provider = self._session.get_providers()[0]
        self._batch = 1 if provider == "CPUExecutionProvider" else GPU_BATCH
        self.name = f"onnxruntime {onnxruntime.__version__} {provider} {precision_of(model)}"

    def _check_interface(self) -> tuple[int, int]:
        """Returns the working resolution and the multiple."""
        inputs = {node.name: (node.type, node.shape) for node in self._session.get_inputs()}
        outputs = tuple(node.name for node in self._session.get_outputs())
        _, shape = inputs.get("image", ("", []))
        colour = len(shape) == 4 and shape[1] == 3
        square = colour and shape[2] == shape[3] and isinstance(shape[2], int)
        notes = self._session.get_modelmeta().custom_metadata_map
        free = colour and not any(isinstance(side, int) for side in shape[2:])
        any_size = free and {MULTIPLE, LARGEST_SIDE} <= {*notes}
        floats = all(kind == "tensor(float)" for kind, _ in inputs.values())
        if set(inputs) != set(INPUTS) or outputs != OUTPUTS or not (square or any_size) or not floats:
            raise ValueError(
                f"the ONNX file has inputs {inputs} and outputs {outputs}; a defender has float image (N, 3, S, S), "
                "float budget_levels (N,) and perturbation: export it with `defender_onnx`"
            )
        return (int(shape[2]), 0) if square else (int(notes[LARGEST_SIDE]), int(notes[MULTIPLE]))

    def perturb(self, pictures: Pictures, budget_levels: float) -> Pictures:
        """Returns (N, 3, H, W) float32 perturbations in 8-bit levels, within plus and minus the budget."""
        parts = []
        for start in range(0, len(pictures), self._batch):
            part = pictures[start : start + self._batch]
            budgets = np.full(len(part), budget_levels, np.float32)
            (levels,) = self._session.run(OUTPUTS, {"image": part, "budget_levels": budgets})
            parts.append(levels)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def available_providers() -> list[str]:
    """Names of what ONNX Runtime can compute on here."""
    from onnxruntime import get_available_providers

    names: list[str] = get_available_providers()
    return names


def precision_of(model: bytes) -> str:
    """Returns "int8" if an ONNX file has quantised operators, else "fp32"."""
    return "int8" if any(name in model for name in QUANTISED_OPERATORS) else "fp32"

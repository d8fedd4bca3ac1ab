"""Face embeddings by an ONNX file of the usual form: 112 x 112 aligned faces in, 128 or 512 numbers out, as ArcFace's.

Faces are found and their five landmarks placed by dlib, so that every network is shown the same faces. A file that
wants other values than RGB in (x - 127.5) / 127.5 says so in its metadata: `mean` and `std` (one number each),
`channels` (RGB or BGR). D numbers out.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rid.training.evaluation.judges.identity import Face, FaceEmbedder, dlib_embedder, enlarged

SIDE = 112  # pixels
# dlib's mean face in ArcFace's frame: both have the centres of the eyes at (38.3, 51.7) and (73.5, 51.5).
TEMPLATE = np.array([(80.7, 50.9), (66.4, 52.1), (31.1, 51.2), (45.5, 52.2), (56.1, 78.9)])


class OnnxFaceEmbedder:
    """A network in a file.

    Args:
        file: ONNX.

    Raises:
        ValueError: if it cannot be read, or does not take (1, 3, 112, 112) and return one vector.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        if not file.is_file():
            raise ValueError(f"there is no face network {file}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors
        # Weights in other files are not covered by the name's digest.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        weights = file.read_bytes()
        try:
            self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ValueError(f"{file.name} is no ONNX network: {str(error).splitlines()[0]}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].shape[1:] != [3, SIDE, SIDE] or len(outputs[0].shape) != 2:
            raise ValueError(
                f"{file.name} takes {[one.shape for one in inputs]} and returns {outputs[0].shape}: a face network has "
                f"one input (1, 3, {SIDE}, {SIDE}) and one output (1, D)"
            )
        told = self._session.get_modelmeta().custom_metadata_map
        self._mean, self._std = float(told.get("mean", 127.5)), float(told.get("std", 127.5))
        self._reversed = told.get("channels", "RGB") == "BGR"
        self._finder = dlib_embedder()
        self.name = f"{file.name} {hashlib.sha256(weights).hexdigest()[:12]}"

    def face(self, pixels: NDArray[np.uint8]) -> Face | None:
        """Returns the largest face, as dlib finds it."""
        return self._finder.face(pixels)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Returns a (D,) unit embedding of the largest face, or None."""
        picture = enlarged(pixels)
        landmarks = self._finder.landmarks(picture)
        return None if landmarks is None else self.embed_aligned(align(picture, landmarks))

    def embed_aligned(self, face: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the (D,) unit embedding of a (112, 112, 3) RGB face."""
        ordered = face[..., ::-1] if self._reversed else face
        values = ((ordered.astype(np.float32) - self._mean) / self._std).transpose(2, 0, 1)[None]  # (1, 3, 112, 112)
        name = self._session.get_inputs()[0].name
        found = self._session.run(None, {name: np.ascontiguousarray(values)})[0][0].astype(np.float64)  # (D,)
        return np.asarray(found / np.linalg.norm(found))


def align(picture: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turns, scales and moves (H, W, 3) pixels so that dlib's landmarks (5, 2) come to lie on TEMPLATE."""
    matrix = similarity_transform(landmarks, TEMPLATE)
    return np.asarray(cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.uint8)


def similarity_transform(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the (2, 3) similarity that takes (N, 2) points to targets with the least squared error.

    With points as complex numbers it is z -> a z + b.
    """
    source, target = points @ (1, 1j), targets @ (1, 1j)
    centred = source - source.mean()
    a = np.vdot(centred, target - target.mean()) / np.vdot(centred, centred).real
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


@cache
def face_embedder(file: str = "") -> FaceEmbedder:
    """The embedder of a file, or dlib's; loaded once a process."""
    return OnnxFaceEmbedder(Path(file)) if file else dlib_embedder()

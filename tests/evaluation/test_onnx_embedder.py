from pathlib import Path

import cv2
import numpy as np
import pytest
from face_networks import write_face_network
from odd_photos import shipped

from rid.training.evaluation.judges.identity import dlib_embedder, enlarged
from rid.training.evaluation.judges.onnx_embedder import (
    SIDE,
    TEMPLATE,
    OnnxFaceEmbedder,
    align,
    face_embedder,
    similarity_transform,
)

PORTRAIT = np.ascontiguousarray(shipped("astronaut")[:230, 110:340])
EMPTY = np.full((64, 64, 3), 120, np.uint8)


def test_a_similarity_is_found_again() -> None:
    turn = 0.3
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 1.7
    targets = TEMPLATE @ matrix.T + (4.0, -9.0)
    found = similarity_transform(TEMPLATE, targets)
    assert found[:, :2] == pytest.approx(matrix) and found[:, 2] == pytest.approx([4.0, -9.0])
    assert similarity_transform(TEMPLATE, TEMPLATE) == pytest.approx(np.eye(2, 3))


@pytest.mark.parametrize("turned", [0, 15, -20])
def test_the_eyes_of_an_aligned_face_lie_where_arcface_has_them(turned: float) -> None:
    centre = (PORTRAIT.shape[1] / 2, PORTRAIT.shape[0] / 2)
    photo = cv2.warpAffine(PORTRAIT, cv2.getRotationMatrix2D(centre, turned, 1.0), PORTRAIT.shape[1::-1])
    picture = enlarged(photo)
    landmarks = dlib_embedder().landmarks(picture)
    assert landmarks is not None and landmarks.shape == (5, 2)
    face = align(picture, landmarks)
    assert face.shape == (SIDE, SIDE, 3)
    again = dlib_embedder().landmarks(enlarged(face))
    assert again is not None
    eyes = np.stack([again[2:4].mean(axis=0), again[:2].mean(axis=0)]) * SIDE / 256
    assert np.abs(eyes - [(38.3, 51.7), (73.5, 51.5)]).max() < 4


def test_a_file_describes_faces_and_is_named_by_its_weights(tmp_path: Path) -> None:
    one, other = (OnnxFaceEmbedder(write_face_network(tmp_path / f"{i}.onnx", seed=i)) for i in range(2))
    found = one.embed(PORTRAIT)
    assert found is not None and found.shape == (32,)
    assert np.linalg.norm(found) == pytest.approx(1)
    moved = one.embed(np.ascontiguousarray(shipped("astronaut")[4:234, 104:334]))
    shown = other.embed(PORTRAIT)
    assert moved is not None and shown is not None
    assert found @ moved > max(0.9, found @ shown)
    assert one.embed(EMPTY) is None and one.face(EMPTY) is None
    assert one.face(PORTRAIT) == dlib_embedder().face(PORTRAIT)
    names = {one.name, other.name, OnnxFaceEmbedder(write_face_network(tmp_path / "0.onnx")).name}
    assert len(names) == 2 and all(name.split()[0] in ("0.onnx", "1.onnx") for name in names)


def test_metadata_says_how_pictures_are_fed(tmp_path: Path) -> None:
    usual = OnnxFaceEmbedder(write_face_network(tmp_path / "usual.onnx"))
    reversed_ = OnnxFaceEmbedder(write_face_network(tmp_path / "bgr.onnx", channels="BGR"))
    plain = OnnxFaceEmbedder(write_face_network(tmp_path / "plain.onnx", mean="0", std="1"))
    face = cv2.resize(PORTRAIT, (SIDE, SIDE))
    assert usual.embed_aligned(face) == pytest.approx(reversed_.embed_aligned(face[..., ::-1]))
    assert np.abs(usual.embed_aligned(face) - plain.embed_aligned(face)).max() > 0.01


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one input"):
        OnnxFaceEmbedder(write_face_network(tmp_path / "large.onnx", side=160))
    with pytest.raises(ValueError, match="no face network"):
        face_embedder(str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match=r"text\.onnx is no ONNX network"):
        face_embedder(str(tmp_path / "text.onnx"))
    assert face_embedder() is dlib_embedder()

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from odd_photos import shipped

from rid.assets.reports.figures import spread
from rid.training.evaluation.judges import perceptual
from rid.training.evaluation.judges.alexnet_distance import PLAIN, AlexNetDistance
from rid.training.evaluation.judges.perceptual import PerceptualMissing, perceptual_distances, perceptual_network

ASTRONAUT = shipped("astronaut")
NOISY = np.clip(ASTRONAUT + np.random.default_rng(0).normal(0, 25, ASTRONAUT.shape), 0, 255).astype(np.uint8)
BLURRED = cv2.GaussianBlur(ASTRONAUT, (0, 0), 3)


@pytest.fixture
def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose torch has fetched nothing yet."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    perceptual_network.cache_clear()
    yield
    perceptual_network.cache_clear()


def signed(picture: np.ndarray, side: int) -> torch.Tensor:
    small = cv2.resize(picture, (side, side + 20), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small.transpose(2, 0, 1).copy())[None].float() / 127.5 - 1


@pytest.mark.usefixtures("without_cache")
@pytest.mark.parametrize(
    ("side", "noise", "blur"),
    [(64, 0.003111515659838915, 0.021635204553604126), (256, 0.16460129618644714, 0.3554868698120117)],
)
def test_distances_are_those_of_the_authors_code(side: int, noise: float, blur: float) -> None:
    """Computed with stlpips-pytorch 0.0.2, net="alex", variant="shift_tolerant"."""
    name, network = perceptual_network()
    assert name == "ST-LPIPS alex"
    clean = signed(ASTRONAUT, side)
    assert float(network(clean, signed(NOISY, side))) == pytest.approx(noise, rel=1e-3)
    assert float(network(clean, signed(BLURRED, side))) == pytest.approx(blur, rel=1e-3)
    assert float(network(clean, clean)) == 0


@pytest.mark.usefixtures("without_cache")
def test_a_shift_is_smaller_than_noise() -> None:
    photo, moved = ASTRONAUT[:400, :400], ASTRONAUT[1:401, 1:401]
    found = perceptual_distances([(photo, photo), (photo, moved), (photo, NOISY[:400, :400])])
    assert found.name == "ST-LPIPS alex"
    assert found.values[0] == 0 < found.values[1] < found.values[2] / 3


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (70, 33), (400, 300)])
def test_pictures_of_any_size_can_be_compared(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert perceptual_distances([(picture, picture)]).values == 0
    assert perceptual_distances([(picture, 255 - picture)]).values > 0


def test_the_plain_network_takes_strides_instead_of_blurs() -> None:
    torch.manual_seed(0)
    shapes = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
    weights = {}
    for layer, (name, (outputs, inputs, side)) in enumerate(zip(PLAIN, shapes, strict=True)):
        weights |= {
            f"{name}.weight": torch.randn(outputs, inputs, side, side) * 0.05,
            f"{name}.bias": torch.zeros(outputs),
        }
        weights[f"lin{layer}.model.1.weight"] = torch.rand(1, outputs, 1, 1)
    network = AlexNetDistance(weights)
    photo = signed(ASTRONAUT, 224)[..., :224, :224]
    assert [tuple(layer.shape[1:]) for layer in network.features(photo)] == [
        (64, 55, 55), (192, 27, 27), (384, 13, 13), (256, 13, 13), (256, 13, 13)
    ]  # fmt: skip
    assert float(network(photo, photo)) == 0 < float(network(photo, photo.flip(3)))


def test_without_a_package_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    perceptual_network.cache_clear()
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(PerceptualMissing, match="stlpips-pytorch is not installed"):
        perceptual_distances([(ASTRONAUT, ASTRONAUT)])


def test_the_worst_of_a_distance_is_its_largest() -> None:
    values = np.arange(11, dtype=np.float32)
    assert (spread(values).worst, spread(values, worst="most").worst, spread(values).median) == (0, 10, 5)

from pathlib import Path

import numpy as np
import pytest
import torch
from odd_photos import shipped
from scipy.linalg import sqrtm

from rid.training.evaluation.judges.fid_inception import (
    FEATURES,
    FILES,
    FidInception,
    find_inception,
    inception_features,
)
from rid.training.evaluation.judges.fid_inception import load_inception as load
from rid.training.evaluation.judges.frechet import frechet, frechet_distance

RANDOM = np.random.default_rng(1)


def equation(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 6 by a matrix root."""
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cx + cy - 2 * np.real(sqrtm(cx @ cy))))


@pytest.mark.parametrize(("n", "m"), [(400, 300), (21, 500), (12, 9)])
def test_the_distance_is_the_equation(n: int, m: int) -> None:
    x, y = RANDOM.normal(size=(n, 20)), RANDOM.normal(size=(m, 20)) * 2 + 1
    assert frechet_distance(x, y) == pytest.approx(equation(x, y), rel=1e-4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 3) == pytest.approx(20 * 9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_two_gaussians_are_as_far_apart_as_their_moments_say() -> None:
    x, y = RANDOM.normal(0, 1, (200_000, 1)), RANDOM.normal(2, 3, (200_000, 1))
    assert frechet_distance(x, y) == pytest.approx(2**2 + (3 - 1) ** 2, rel=0.02)


def test_one_picture_has_no_distance() -> None:
    assert frechet(np.zeros((1, 4)), np.zeros((5, 4)), "x") is None
    with pytest.raises(ValueError, match="two pictures"):
        frechet_distance(np.zeros((3, 4)), np.zeros((3, 5)))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published form, with random weights."""
    torch.manual_seed(0)
    network = FidInception()
    weights = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    weights |= {"fc.weight": torch.zeros(1008, FEATURES), "fc.bias": torch.zeros(1008)}
    file = tmp_path_factory.mktemp("hub") / "checkpoints" / FILES[0]
    file.parent.mkdir()
    torch.save(weights, file)
    return file


def test_inception_reads_a_published_file_and_describes_pictures(published: Path) -> None:
    network = load(published)
    assert sum(weight.numel() for weight in network.parameters()) == 21_785_568  # pytorch-fid's count without fc
    astronaut = shipped("astronaut")[:230, 110:340]
    features = inception_features(network, [astronaut, astronaut, shipped("coffee")])
    assert features.shape == (3, FEATURES) and features.dtype == np.float32
    assert np.array_equal(features[0], features[1]) and not np.array_equal(features[0], features[2])
    assert inception_features(network, []).shape == (0, FEATURES)


def test_inception_is_looked_for_and_never_fetched(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_inception() is None
    assert find_inception(str(published)) == published
    with pytest.raises(ValueError, match="there is no file"):
        find_inception(str(tmp_path / "none.pth"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(published.parents[1]))
    assert find_inception() == published
    torch.save({"fc.bias": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not FID's Inception-v3: it lacks"):
        load(tmp_path / "other.pth")

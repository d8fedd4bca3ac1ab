import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_photos import shipped
from services import missing_service

from rid.training.evaluation.judges import brisque_fit as fits
from rid.training.evaluation.judges.brisque import asymmetric_fit, brisque, brisque_features, normalised
from rid.training.evaluation.judges.brisque_fit import (
    FEATURES,
    INSTALL,
    RANGES,
    REGRESSION,
    BrisqueMissing,
    find_brisque_fit,
    read_brisque_fit,
)
from rid.training.evaluation.judges.picture_quality import naturalness

ASTRONAUT = shipped("astronaut")
NOISY = np.clip(ASTRONAUT + np.random.default_rng(0).normal(0, 25, ASTRONAUT.shape), 0, 255).astype(np.uint8)
BLURRED = cv2.GaussianBlur(ASTRONAUT, (0, 0), 3)
SMALL = cv2.resize(ASTRONAUT, (64, 64), interpolation=cv2.INTER_AREA)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def package() -> Path:
    """The installed package; without it nothing can be scored."""
    folder = find_brisque_fit()
    if folder is None:
        missing_service(f"BRISQUE's fit needs the package brisque: {INSTALL}")
    assert folder
    return folder


@pytest.fixture
def copied(package: Path, tmp_path: Path) -> Path:
    """A copy of the package's files, to be damaged."""
    return Path(shutil.copytree(package, tmp_path / "brisque"))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("picture", "score"),
    [(ASTRONAUT, 10.795), (NOISY, 51.537), (BLURRED, 76.330), (shipped("coffee"), 3.048), (SMALL, 29.148)],
    ids=["clean", "noise", "blur", "coffee", "64 px"],
)
def test_scores_are_those_of_the_package_whose_fit_is_read(picture: np.ndarray, score: float) -> None:
    """Computed with brisque 0.2.0 and libsvm-official 3.37; it searches shapes in another way."""
    assert brisque(picture) == pytest.approx(score, abs=0.05)


def test_a_fit_finds_the_shape_and_the_variances() -> None:
    random = np.random.default_rng(0)
    shape, mean, left, right = asymmetric_fit(random.normal(0, 2, 200_000))
    assert (shape, left, right) == pytest.approx((2, 4, 4), rel=0.03) and abs(mean) < 0.05
    laplace = np.abs(random.laplace(0, 1, 200_000)) * random.choice([-3.0, 1.0], 200_000)
    assert asymmetric_fit(laplace)[1] < -0.5, "more of it lies on the left"
    assert asymmetric_fit(random.laplace(0, 1, 200_000))[0] == pytest.approx(1, rel=0.03)


def test_luminance_is_normalised_by_its_neighbourhood() -> None:
    grey = ASTRONAUT.mean(axis=2) / 255
    field = normalised(grey)[8:-8, 8:-8]
    assert abs(field.mean()) < 0.05 and 0.3 < field.std() < 1.2
    assert normalised(grey + 0.1)[8:-8, 8:-8] == pytest.approx(field)
    assert brisque_features(ASTRONAUT).shape == (36,)


@pytest.mark.usefixtures("package")
def test_what_cannot_be_scored_is_left_out() -> None:
    flat = np.full((64, 64, 3), 9, np.uint8)
    for picture in (flat, ASTRONAUT[:8]):
        with pytest.raises(ValueError, match="at least 16 pixels"):
            brisque(picture)
    assert naturalness("x", np.stack([flat, SMALL])) == {"x": pytest.approx(brisque(SMALL))}
    assert naturalness("x", np.stack([flat])) == {}


def test_the_fit_is_read_as_libsvm_wrote_it(package: Path) -> None:
    fit = read_brisque_fit(package)
    text = package.joinpath(*REGRESSION).read_text()
    assert fit.vectors.shape == (int(re.search(r"total_sv (\d+)", text)[1]), FEATURES) == (770, 36)
    assert (fit.gamma, fit.rho) == (0.05, -155.845)
    written = [
        " ".join([f"{weight:.16g}", *(f"{i}:{value:.6g}" for i, value in enumerate(vector, start=1) if value)])
        for weight, vector in zip(fit.coefficients, fit.vectors, strict=True)
    ]
    assert written == [line.rstrip() for line in text.partition("\nSV\n")[2].splitlines()]
    assert fit.coefficients.sum() == pytest.approx(0, abs=0.01), "as in every support vector regression"
    assert (fit.low < fit.high).all()


def test_features_that_are_0_need_not_be_written(copied: Path) -> None:
    header = "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.5\nrho 2\nSV\n"
    copied.joinpath(*REGRESSION).write_text(f"{header}3 1:0.5 36:-1 \n-3 2:1 \n")
    fit = read_brisque_fit(copied)
    assert fit.vectors[0, 0] == 0.5 and fit.vectors[0, -1] == -1 and np.count_nonzero(fit.vectors) == 3
    middle = (fit.low + fit.high) / 2  # scaled to 0
    assert fit.score(middle) == pytest.approx(3 * np.exp(-0.5 * 1.25) - 3 * np.exp(-0.5) - 2)


def test_a_pickle_that_names_a_function_is_refused_and_runs_nothing(copied: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    copied.joinpath(*RANGES).write_bytes(pickle.dumps({"min_": Attack(), "max_": [1.0] * 36}))
    with pytest.raises(ValueError, match="holds no ranges of features"):
        read_brisque_fit(copied)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"min_": [0.0] * 35, "max_": [1.0] * 36}, r"has \(35,\) features, not 36"),
        ({"min_": [0.0] * 36}, "holds no ranges of features"),
    ],
)
def test_ranges_of_another_model_are_refused(copied: Path, content: dict, sentence: str) -> None:
    copied.joinpath(*RANGES).write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        read_brisque_fit(copied)


def test_a_classifier_is_refused(copied: Path) -> None:
    copied.joinpath(*REGRESSION).write_text("svm_type c_svc\nkernel_type rbf\nSV\n")
    with pytest.raises(ValueError, match="is no regression with an RBF kernel"):
        read_brisque_fit(copied)


def test_without_the_package_it_is_left_out_and_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "find_spec", lambda name: None)
    assert naturalness("x", np.stack([SMALL])) == {}
    with pytest.raises(BrisqueMissing, match=f"the package brisque is not installed: {INSTALL}"):
        brisque(SMALL)


def test_the_version_that_is_named_is_the_one_that_the_makefile_installs() -> None:
    assert INSTALL.split()[-1] in (ROOT / "constraints.txt").read_text().splitlines()
    assert re.search(r"pip install .*--no-deps -c constraints.txt brisque\b", (ROOT / "Makefile").read_text())

"""Demands of the gates, on figures that are made up and on defenders that are known to fail."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from quick_pipelines import photo_crops
from small_spaces import REAL, real_spaces, save_spaces
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.latent_space import load_latent_space
from rid.training.evaluation.gates.figures import (
    GateFigures,
    Gates,
    LookFigures,
    SideFigures,
    SpaceFigures,
    failures,
    summary,
    verdict,
)
from rid.training.evaluation.gates.measuring import GateMeasurement, JudgedSpace, measure_defender
from rid.training.evaluation.statistics import Interval

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"
STENCIL = "067e63354b20a728752b2f41d4fc9251a63728867d678b87a1e82a1538edff78"  # the defender of 2026-11-24


def around(mean: float) -> Interval:
    return Interval(mean, mean - 0.1, mean + 0.1, 64)


def space(name: str, over_noise: float, *, claimed: bool = True) -> SpaceFigures:
    return SpaceFigures(name, "ab" * 32, claimed, around(over_noise / 10), around(0.1), around(over_noise))


def good_side(side: int) -> SideFigures:
    spaces = (space("sd1", 3.0), space("flux1", 2.0), space("other", 2.5, claimed=False))
    return SideFigures(side, 6, spaces, around(0.3), 0.05, around(0.3), around(0.8), around(0.7))


def good() -> GateFigures:
    look = LookFigures(6, 512, 0.8, 0.02, 40.0, 0.01, "ST-LPIPS alex")
    return GateFigures(64, 20, "cd" * 32, "onnxruntime", (good_side(256), good_side(512)), look)


def with_side(**changes: object) -> GateFigures:
    return replace(good(), sides=(good_side(256), replace(good_side(512), **changes)))  # type: ignore[arg-type]


def test_figures_at_the_gates_pass() -> None:
    assert failures(good()) == []
    assert verdict(good()) == "passed, measured on 64 photos of 20 people"
    assert verdict(None).startswith("not measured")


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (
            with_side(spaces=(space("sd1", 3), space("flux1", 1.9), space("other", 3, claimed=False))),
            "at 512 px and +-6 it moves latents less than 2 times as far as noise of equal norm (flux1 1.90)",
        ),
        (
            with_side(spaces=(space("sd1", 3), space("other", 1.9, claimed=False))),
            "it does that in no space that it was not trained on, where one is asked for (other 1.90)",
        ),
        (with_side(spaces=(space("sd1", 3),)), "at 512 px and +-6 no space that it was not trained on was measured"),
        (with_side(spaces=(space("x", 3, claimed=False),)), "at 512 px and +-6 no space that it claims was measured"),
        (
            with_side(cosine=around(0.31)),
            "at 512 px and +-6 its perturbations of different photos have a cosine of 0.31 (at most 0.3)",
        ),
        (with_side(fixed_pattern=around(0.31)), "one fixed pattern does 31% of what it does (at most 30%)"),
        (with_side(left=around(0.69)), "blind subtraction leaves 0.69 of it (at least 0.7)"),
        (replace(good(), sides=(good_side(256),)), "it was not measured at 512 px"),
        (replace(good(), photos=63), "it was measured on 63 photos where 64 are asked for"),
        (replace(good(), look=None), "its look in smooth areas was not measured"),
    ],
)
def test_each_gate_alone_fails_with_its_figure(figures: GateFigures, sentence: str) -> None:
    (problem,) = failures(figures)
    assert sentence in problem
    assert problem in verdict(figures)


def test_what_is_no_number_does_not_pass() -> None:
    broken = Interval(float("nan"), 0, 0, 64)
    found = failures(with_side(cosine=broken, left=broken, fixed_pattern=broken))
    assert len(found) == 3


def test_one_unseen_space_is_enough_and_every_claimed_one_counts() -> None:
    spaces = (space("sd1", 3), space("a", 0.5, claimed=False), space("b", 2.1, claimed=False))
    assert failures(with_side(spaces=spaces)) == []
    assert len(failures(with_side(spaces=(space("sd1", 1), space("sd3", 1.5), spaces[2])))) == 1  # one line, both in it


def test_figures_come_back_from_the_card() -> None:
    values = json.loads(json.dumps(good().to_json()))
    assert GateFigures.from_json(values).to_json() == values
    assert summary(GateFigures.from_json(values)) == summary(good())
    assert GateFigures.from_json(values).sides[1].spaces[2].claimed is False
    without_look = replace(good(), look=None)
    assert GateFigures.from_json(without_look.to_json()).look is None
    for broken in ({**values, "sides": [{}]}, {**values, "more": 1}, {"photos": 3}):
        with pytest.raises(ValueError, match="measure it again"):
            GateFigures.from_json(broken)


def judged(folder: Path) -> list[JudgedSpace]:
    """Two small spaces, of which the first one is claimed."""
    return [JudgedSpace(load_latent_space(str(one)), index == 0) for index, one in enumerate(save_spaces(folder))]


def png(side: int, count: int) -> list[bytes]:
    return [cv2.imencode(".png", photo)[1].tobytes() for photo in photo_crops(count, side=side)]


def test_a_stencil_fails_every_gate_but_the_claims(tmp_path: Path) -> None:
    """The tiny defender of the tests adds one fixed coarse pattern to everything."""
    spaces = judged(tmp_path)
    said: list[str] = []
    how = GateMeasurement((64, 96), (6, 12), 6)
    figures = measure_defender(OnnxEngine(build_model()), png(96, 6), list("aabbcc"), spaces, how, said.append)
    assert [(side.side, side.budget_levels) for side in figures.sides] == [(64, 6), (64, 12), (96, 6), (96, 12)]
    assert said == ["64 px: 6 of 6 photos", "96 px: 6 of 6 photos"]
    assert (figures.photos, figures.people) == (6, 3)
    problems = failures(figures, Gates(over_noise=0.0, sides=(64, 96), photos=6))
    assert len([problem for problem in problems if "have a cosine of" in problem]) == 4
    assert len([problem for problem in problems if "one fixed pattern does" in problem]) == 4
    assert len([problem for problem in problems if "blind subtraction leaves" in problem]) == 4
    assert figures.look is not None and figures.look.side == 96
    assert figures.look.worst_levels > 3  # coarse blocks are seen
    again = measure_defender(OnnxEngine(build_model()), png(96, 6), list("aabbcc"), spaces, how, said.append)
    assert again == figures


def stencil() -> OnnxEngine:
    """The defender of 2026-11-24, where it still lies in the package."""
    for config in WEIGHTS.rglob("config.json"):
        if json.loads(config.read_text()).get("digest") == STENCIL:
            return OnnxEngine((config.parent / "model.onnx").read_bytes())
    pytest.skip("the defender of 2026-11-24 ships no more")


def test_the_defender_of_november_24_fails_over_small_spaces(tmp_path: Path) -> None:
    spaces = judged(tmp_path)
    how = GateMeasurement((128,), (16,), 6)
    figures = measure_defender(stencil(), png(128, 8), list("abcdefgh"), spaces, how, print)
    found = " ".join(failures(figures, Gates(over_noise=0.0, sides=(128,), photos=8)))
    for gate in ("have a cosine of", "one fixed pattern does", "blind subtraction leaves"):
        assert gate in found


@pytest.mark.slow
def test_the_defender_of_november_24_fails_in_the_real_spaces() -> None:
    """About 40 CPU-seconds."""
    folder = real_spaces()
    spaces = [JudgedSpace(load_latent_space(str(folder / name)), name != "sd3") for name in REAL]
    how = GateMeasurement((256,), (16,), 6)
    figures = measure_defender(stencil(), png(256, 8), list("abcdefgh"), spaces, how, print)
    found = failures(figures, Gates(sides=(256,), photos=8))
    assert any("less than 2 times as far as noise of equal norm (sd1" in problem for problem in found)
    assert any("in no space that it was not trained on, where one is asked for (sd3" in problem for problem in found)
    for gate in ("have a cosine of", "one fixed pattern does"):  # on whole photos subtraction leaves three quarters
        assert any(gate in problem for problem in found)

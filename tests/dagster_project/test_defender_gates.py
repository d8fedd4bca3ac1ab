"""Figures and gates on the command line and in the asset: measured, kept in the card, asked for before promotion."""

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from dagster import AssetCheckSeverity, DagsterInstance, materialize
from quick_pipelines import photo_crops
from small_spaces import save_spaces
from tiny_defender import write_tiny_defender

from rid.assets.defender_onnx import GATES_CHECK, defender_onnx
from rid.assets.studies.defender_gates import GatesFailed, promote
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.places import Places
from rid.resources.storage import Storage
from rid.training.evaluation.gates.figures import (
    MEASURED,
    GateFigures,
    LookFigures,
    SideFigures,
    SpaceFigures,
    figures_in,
)
from rid.training.evaluation.statistics import Interval


def passing() -> dict[str, Any]:
    """Figures that pass all gates."""
    three, small = Interval(3.0, 2.9, 3.1, 64), Interval(0.2, 0.1, 0.3, 64)
    spaces = tuple(SpaceFigures(name, name * 16, name == "a", three, small, three) for name in ("a", "b"))
    sides = tuple(SideFigures(side, 6, spaces, small, 0.05, small, small, three) for side in (256, 512))
    return GateFigures(64, 8, "e" * 64, "engine", sides, LookFigures(6, 512, 0.5, 0.0, 41.0, None, "none")).to_json()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Six photos of three people, a folder each."""
    for number, photo in enumerate(photo_crops(6, side=80)):
        file = tmp_path / "faces" / "abc"[number % 3] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(".jpg", photo)[1].tobytes())
    return tmp_path / "faces"


def test_a_defender_is_measured_refused_and_promoted_knowingly(rid: Any, faces: Path, tmp_path: Path) -> None:
    code, out, err = rid("defenders", "promote", "defender")
    assert (code, out) == (5, "") and err.count("\n") == 1
    assert "was never measured: run `rid defenders measure`" in err and "--although-it-fails" in err
    first, second = save_spaces(tmp_path)
    arguments = ["--photos", str(faces), "--space", str(first), "--unseen", str(second), "--side", "64", "--json"]
    code, out, err = rid("defenders", "measure", "defender", *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert found["photos"] == 6 and found["people"] == 3
    assert [(one["name"], one["claimed"]) for one in found["sides"][0]["spaces"]] == [
        ("space-0", True),
        ("space-1", False),
    ]
    assert any("it was measured on 6 photos" in problem for problem in found["failures"])
    card = json.loads((tmp_path / "defender" / "config.json").read_text())
    assert card["digest"] == rid.digest == found["digest"]  # figures do not change who it is
    assert card[MEASURED] == {name: found[name] for name in card[MEASURED]}
    code, _, err = rid("defenders", "promote", "defender")
    assert code == 5 and err.count("\n") == 1
    assert "fails its gates: it was measured on 6 photos where 64 are asked for; it was not measured at 256 and" in err
    assert "Its figures: 64 px, +-6: times noise of equal norm: space-0" in err
    assert rid("defenders", "promote", "defender", "--although-it-fails")[0] == 0
    assert "gates: fails, measured on 6 photos of 3 people" in rid("defenders", "list")[1]
    (listed,) = [one for one in json.loads(rid("defenders", "list", "--json")[1]) if one["digest"] == rid.digest]
    assert listed["gates"]["failures"] == found["failures"]
    doctor = rid("doctor")[1]
    assert "gates: fails, measured on 6 photos" in doctor and "look at +-6, 64 px" in doctor


def test_one_that_passes_is_promoted(rid: Any, tmp_path: Path) -> None:
    registry = DefenderRegistry(Storage(str(tmp_path / "rid-home")), tmp_path / "none")
    registry.record(str(tmp_path / "defender"), MEASURED, passing())
    assert rid("defenders", "promote", "defender")[0] == 0
    assert "gates: passed, measured on 64 photos of 8 people" in rid("defenders", "list")[1]


def test_bad_measurements_are_told_in_one_sentence(rid: Any, faces: Path, tmp_path: Path) -> None:
    space = str(save_spaces(tmp_path, 1)[0])
    for arguments, sentence in (
        (["--photos", str(faces), "--space", "sd9"], "the latent space 'sd9' is no folder"),
        (["--photos", str(tmp_path / "nothing"), "--space", space], "no photo is found in"),
        (["--photos", str(faces / "a"), "--space", space, "--count", "1"], "--count"),
        (["--photos", str(faces), "--space", space, "--people", "a:a", "--side", "64"], "at least two people"),
        (["--photos", str(faces), "--space", space, "--budget", "17"], "was trained for budgets of 1 to 16"),
    ):
        code, _, err = rid("defenders", "measure", "defender", *arguments)
        assert code == 5 and sentence in err, err


def test_a_space_of_the_training_is_not_called_unseen(rid: Any, faces: Path, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "defender" / "config.json").read_text())
    training = {"models": ["embedded-64"], "spaces": ["sd1"]}
    (tmp_path / "defender" / "config.json").write_text(json.dumps({**config, "training": training}))
    space = str(save_spaces(tmp_path, 1)[0])
    for unseen in ("embedded", "sd1"):
        code, _, err = rid(
            "defenders", "measure", "defender", "--photos", str(faces), "--space", space, "--unseen", unseen
        )
        assert code == 5 and f"was trained on the latent space {unseen}" in err and "--unseen" in err


def test_figures_are_kept_in_the_registry_and_survive_registering_again(tmp_path: Path) -> None:
    shipped, made = tmp_path / "shipped", tmp_path / "made"
    write_tiny_defender(shipped / "default", seed=7)
    write_tiny_defender(made)
    registry = DefenderRegistry(Storage(str(tmp_path / "home")), shipped)
    digest = registry.register(made)
    assert figures_in(registry.record(digest, MEASURED, passing()).config) == GateFigures.from_json(passing())
    registry.register(made)  # a card without figures
    assert figures_in(registry.resolve(digest).config) is not None
    before = (shipped / "default" / "config.json").read_bytes()
    registry.record("default", MEASURED, passing())  # what ships with a package may not be writable
    assert (shipped / "default" / "config.json").read_bytes() == before
    assert figures_in(registry.resolve("default").config) is not None
    registry.record(str(shipped / "default"), MEASURED, passing())  # but it is written where its path is given
    assert figures_in(DefenderRegistry(Storage(str(tmp_path / "other")), shipped).resolve("default").config) is not None
    with pytest.raises(ValueError, match="'files' decides what a defender is"):
        registry.record(digest, "files", {})


def test_promotion_asks_for_the_gates(tmp_path: Path) -> None:
    write_tiny_defender(tmp_path / "made")
    registry = DefenderRegistry(Storage(str(tmp_path / "home")), tmp_path / "none")
    with pytest.raises(GatesFailed, match="was never measured"):
        promote(registry, str(tmp_path / "made"))
    assert registry.aliases() == {}
    registry.record(str(tmp_path / "made"), MEASURED, passing())
    assert promote(registry, str(tmp_path / "made")).aliases == ("default",)


def test_the_asset_refuses_to_promote_and_its_check_warns(tmp_path: Path) -> None:
    write_tiny_defender(tmp_path / "weights" / "default", seed=3)
    write_tiny_defender(tmp_path / "made")
    places = Places(home=str(tmp_path / "home"), source=str(tmp_path), weights=str(tmp_path / "weights"))
    digest = places.registry().register(tmp_path / "made")

    def run(**config: object) -> Any:
        with DagsterInstance.ephemeral() as instance:
            return materialize(
                [defender_onnx],
                resources={"places": places},
                instance=instance,
                raise_on_error=False,
                run_config={"ops": {"defender_onnx": {"config": {"defender": digest, **config}}}},
            )

    refused = run(promote=True)
    assert not refused.success
    (failure,) = [event for event in refused.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "was never measured" in str(failure.event_specific_data)
    assert places.registry().aliases()["default"] != digest
    knowingly = run(promote=True, although_it_fails=True)
    (check,) = knowingly.get_asset_check_evaluations()
    assert knowingly.success
    assert (check.check_name, check.passed, check.severity) == (GATES_CHECK, False, AssetCheckSeverity.WARN)
    assert places.registry().aliases()["default"] == digest
    places.registry().record(digest, MEASURED, passing())
    passed = run(promote=True)
    (check,) = passed.get_asset_check_evaluations()
    assert passed.success and check.passed
    assert "passed, measured on 64 photos" in (check.description or "")

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_networks import write_face_network
from small_studies import QUICK, astronaut, looks, write_people

from rid.assets.studies import run as study_run
from rid.assets.studies import tasks as study_tasks
from rid.assets.studies.page import BRISQUES, aims
from rid.assets.studies.run import FIGURES, PAGE, StudyRequest, run_study
from rid.assets.studies.tasks import StudyTask, run_study_task
from rid.dagster_project.commands.study import NEEDED, StudyOptions, build_request
from rid.resources.dask_workers import Workers, WorkerSettings
from rid.resources.storage import Storage
from rid.training.evaluation.attackers import restoration
from rid.training.evaluation.attackers.restoration import RestorationConfig, pack_restoration, restore
from rid.training.evaluation.cells import (
    BASE_BUDGET,
    CLEAN,
    DEFENDER,
    NOISE,
    RESTORE,
    UNTRAINED,
    UPSCALE,
    Cell,
    base_cells,
    full_cells,
)
from rid.training.evaluation.judges import brisque_fit
from rid.training.evaluation.judges.identity import dlib_embedder
from rid.training.evaluation.judges.perceptual import perceptual_network
from rid.training.evaluation.study import unit as study
from rid.training.evaluation.study.people import Person, list_people, read_squares
from rid.training.evaluation.study.picture_strips import unpack
from rid.training.evaluation.study.settings import StudySettings
from rid.training.evaluation.study.summary import StudySummary
from rid.training.evaluation.study.unit import Study
from rid.training.personalization import config as personalization

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    return write_people(folder / "people.parquet", {f"p{i}": looks(i) for i in range(4)})


def test_people_are_read_by_name_and_photos_without_a_face_are_left_out(tmp_path: Path) -> None:
    empty = np.full((230, 230, 3), 90, np.uint8)
    file = write_people(tmp_path / "few.parquet", {"b": [astronaut(0), empty, astronaut(4)], "a": [astronaut(2)]})
    found = list_people(file)
    assert found == [Person("a", (3,)), Person("b", (0, 1, 2))]
    squares = read_squares(file, found[1], dlib_embedder(), 64)
    assert squares.shape == (2, 64, 64, 3)
    assert all(dlib_embedder().embed(square) is not None for square in squares)
    with pytest.raises(ValueError, match="no column 'who': it has image, identity"):
        list_people(file, "who")


def test_cells_are_unique_and_stand_after_what_they_are_compared_with() -> None:
    base = base_cells(("RID", "plain"), ("encoder", "advdm"), "embedded-64")
    full = full_cells(("RID", "plain"), ("encoder", "advdm"), "embedded-64", ("embedded-64-v",))
    assert full[: len(base)] == base
    assert {cell.budget for cell in base if cell.kind == DEFENDER} == {6, 12, 16}
    assert {cell.kind for cell in base if cell.budget == BASE_BUDGET} == {NOISE, "teacher", DEFENDER}
    for cells in (base, full):
        assert len({cell.key for cell in cells}) == len(cells)
        for place, cell in enumerate(cells):
            if cell.kind not in (CLEAN, UNTRAINED):
                assert {cell.reference, cell.untrained} <= set(cells[:place])
    base_cell = base[2]
    factors = ("budget", "share", "transform", "model", "recipe")
    changed = [sum(getattr(cell, f) != getattr(base_cell, f) for f in factors) for cell in full if cell.name == "RID"]
    assert max(changed) == 1
    with pytest.raises(ValueError, match="unknown"):
        Cell("magic")


def test_a_full_study_has_a_row_for_every_factor() -> None:
    full = full_cells(("RID", "adv_sds_only"), ("encoder",), "embedded-64", ("embedded-64-v",))
    base = Cell(DEFENDER, "RID", BASE_BUDGET)
    transforms = ["jpeg-95", "jpeg-75", "jpeg-50", "resize", "blur", "noise", "crop-rotate"]
    transforms += ["purify", "purify-patches", "upscale", "restore"]
    rows = [replace(base, transform=name) for name in transforms]
    rows += [replace(base, budget=budget) for budget in (6, 12)] + [replace(base, share=share) for share in (0.5, 0.25)]
    rows += [replace(base, model="embedded-64-v")]
    rows += [replace(base, recipe=f"{name}_64") for name in ("lora_textual_inversion", "textual_inversion")]
    assert {cell for cell in full if cell.kind == DEFENDER and cell.name == "RID"} == {base, *rows}
    other = [cell for cell in full if cell.name == "adv_sds_only"]
    assert {cell.budget for cell in other} == {6, 12, 16} and len(other) == 3
    assert other[0] in base_cells(("RID", "adv_sds_only"), ("encoder",), "embedded-64")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--factors", "blur"], "add --full"),
        (["--full", "--factors", "blur", "--factors", "fog"], "there is no factor fog: a study has jpeg-95"),
        (["--teachers", "magic"], "there is no teacher magic: a study has"),
        (["--defender", "models/weights/default"], "is not NAME=FOLDER"),
        (["--column", "who"], "no column 'who': it has image, identity"),
        (["--photos", "none.parquet"], "there is no file none.parquet; a study needs photos of people"),
    ],
)
def test_a_study_that_cannot_be_gives_one_sentence(rid: Any, people: Path, arguments: list[str], sentence: str) -> None:
    code, out, err = rid("study", "--photos", str(people), *arguments)
    assert code == 5 and sentence in err and err.count("\n") == 1 and out == ""


def test_a_full_study_varies_only_the_factors_that_are_named() -> None:
    base = base_cells(("RID",), ("encoder",), "embedded-64")
    some = full_cells(("RID",), ("encoder",), "embedded-64", ("embedded-64-v",), ("blur", "model"))
    assert {(cell.transform, cell.model) for cell in some if cell not in base} == {
        ("blur", "embedded-64"),
        ("", "embedded-64-v"),
    }


@pytest.fixture
def quick_attacker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks and restorations of a few steps."""
    monkeypatch.setitem(personalization.PERSONALIZATION_RECIPES, "dreambooth_64", lambda: QUICK)
    few = RestorationConfig(width=4, blocks=1, steps=3)
    monkeypatch.setattr(study, "restoration_64", lambda: few)
    monkeypatch.setattr(restoration, "restoration_64", lambda: few)


def quick_settings(people: Path) -> dict:
    return {
        "photos": str(people),
        "column": "identity",
        "models": {"embedded-64": str(WEIGHTS / "embedded-64")},
        "defenders": {"RID": str(WEIGHTS / "default")},
        "learned": 2,
        "drawn": 1,
        "pair_rows": (0, 1, 2),
    }


@pytest.mark.usefixtures("quick_attacker")
def test_workers_share_one_restoration_network_for_clean_and_protected_photos(people: Path, tmp_path: Path) -> None:
    person = list_people(people)[2]
    protected = Cell(DEFENDER, "RID", 16, transform=RESTORE)
    done = []
    for cell in (protected, protected.reference):
        study_tasks._study.cache_clear()  # as another process
        settings = StudySettings(**quick_settings(people))
        task = StudyTask(settings, Storage(str(tmp_path)), person.name, person.rows, cell)
        done.append(run_study_task(task))
        assert done[-1].made and not run_study_task(task).made
    networks = list(tmp_path.glob("restoration-*.safetensors"))
    assert len(networks) == 1
    measured = Study(StudySettings(**quick_settings(people)))
    packed = networks[0].read_bytes()
    assert pack_restoration(measured.restoration) == packed and networks[0].stem.endswith(measured.restoration_digest)
    clean = measured.squares(person)[:2]
    learned = unpack(json.loads((tmp_path / done[1].unit).read_text())["photos"])
    assert np.array_equal(learned, restore(measured.restoration, clean)), "the clean reference is restored too"
    assert not np.array_equal(learned, clean)


@pytest.mark.usefixtures("quick_attacker")
def test_units_are_named_by_the_pairs_and_the_upscaler_that_decide_them(people: Path) -> None:
    person, settings = list_people(people)[2], quick_settings(people)
    plain, restored, upscaled = (Cell(CLEAN, transform=name) for name in ("", RESTORE, UPSCALE))

    def digests(**changes: object) -> list[str]:
        changed = Study(StudySettings(**(settings | changes)))
        return [changed.unit_digest(cell, person) for cell in (plain, restored, upscaled)]

    base = digests()
    for changes, moved in (
        ({"pair_rows": (0, 1)}, {1}),
        ({"upscaler": "stabilityai/stable-diffusion-x4-upscaler"}, {2}),
        ({"defenders": {"RID": str(WEIGHTS / "embedded-64")}}, {1}),
    ):
        assert {place for place, (a, b) in enumerate(zip(base, digests(**changes), strict=True)) if a != b} == moved


def test_pairs_come_from_development_people_or_a_file_of_their_own(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = StudyRequest(str(people), str(tmp_path), models={}, defenders={})
    development = list_people(people)[:2]
    assert study_run._pair_rows(request, development) == tuple(range(10))
    monkeypatch.setattr(study_run, "MOST_PAIRS", 8)
    assert study_run._pair_rows(replace(request, pairs=str(people)), development) == tuple(range(0, 20, 3))


def untimed(summary: StudySummary) -> StudySummary:
    """Without the CPU seconds, which differ from run to run."""
    return replace(summary, cells=[replace(row, protecting_seconds=0.0) for row in summary.cells])


@pytest.mark.slow
def test_a_study_runs_goes_on_and_shows_nobody_unasked(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(personalization.PERSONALIZATION_RECIPES, "dreambooth_64", lambda: QUICK)
    monkeypatch.setattr(study_run, "BASE_TEACHERS", ())
    request = StudyRequest(
        photos=str(people),
        folder=str(tmp_path),
        models={"embedded-64": str(WEIGHTS / "embedded-64")},
        defenders={"RID": str(WEIGHTS / "default")},
        learned=2,
        drawn=2,
    )
    made: list[bool] = []
    with Workers(WorkerSettings(n_workers=0)) as workers:
        first = run_study(request, workers, lambda done, total, task, unit: made.append(unit.made))
        assert all(made) and len(made) == 4 + 2 * 6 + 2
        kept = (tmp_path / FIGURES).read_text()
        units = sorted(file for file in (tmp_path / "units").iterdir() if "-" not in file.name)
        assert len(units) == 2 * 6
        units[-1].unlink()
        made.clear()
        again = run_study(request, workers, lambda done, total, task, unit: made.append(unit.made))
        assert sum(made) == 1
        assert untimed(again) == untimed(first)
        bare_cell = json.loads(units[-1].read_text())["cell"]
        units[-1].unlink()
        with monkeypatch.context() as bare:
            bare.setattr(brisque_fit, "find_spec", lambda name: None)
            mixed = run_study(request, workers)
        for row, whole in zip(mixed.cells, first.cells, strict=True):
            lost = set(BRISQUES) if row.cell.key == bare_cell else set()
            assert set(row.quality or {}) == set(whole.quality or {}) - lost, "people of a row were measured alike"
        assert f"after {brisque_fit.INSTALL}, a study in a new folder has it" in (tmp_path / PAGE).read_text()
        units[-1].unlink()
        assert untimed(run_study(request, workers)) == untimed(first)
        made.clear()
        network = write_face_network(tmp_path / "other.onnx")
        other = run_study(
            replace(request, embedder=str(network)), workers, lambda done, total, task, unit: made.append(unit.made)
        )
        assert sum(made) == 4, "another network describes photos and drawings; nobody is attacked again"
        assert other.people == first.people
        assert other.cells[1].ism != first.cells[1].ism and other.cells[1].quality == first.cells[1].quality
        assert "other.onnx" in (tmp_path / PAGE).read_text()
        run_study(request, workers)
        page = (tmp_path / PAGE).read_text()
        assert "data:image/png" not in page and not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
        run_study(replace(request, contact_sheet=True), workers)
    assert "keep this page where it is" in (tmp_path / PAGE).read_text()
    assert first.void and first.people == ["p2", "p3"]  # two steps teach nobody
    assert [aim.met for aim in aims(first)] == [False]
    assert "Void" in page
    figures = json.loads(kept)
    assert figures["development"] == ["p0", "p1"]
    assert figures["analysis"]["photos"] == 4 and "What the perturbations are made of" in page
    assert [version["key"].split("/")[0] for version in figures["analysis"]["versions"]] == [CLEAN, DEFENDER, NOISE]
    assert figures["worst case"] is None and "Worst case" not in page
    rid, noise = (next(row for row in first.cells if row.cell.kind == kind) for kind in (DEFENDER, NOISE))
    assert rid.quality and noise.quality
    perceptual, _ = perceptual_network()
    installed = brisque_fit.find_brisque_fit() is not None
    assert set(rid.quality) == {"psnr", "ssim", perceptual, *(BRISQUES if installed else ())}
    assert set(first.cells[0].quality or {}) == ({"drawn_brisque"} if installed else set())
    assert rid.quality[perceptual] > 0 and perceptual in page and "BRISQUE, drawn" in page
    assert (brisque_fit.INSTALL in page) != installed
    assert first.cells[0].frechet is None or "dlib ResNet v1, where it finds a face" in page
    assert abs(rid.quality["psnr"] - noise.quality["psnr"]) < 0.1, "noise has the norm of what it is compared with"


def test_without_photos_one_sentence_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs photos of people"):
        build_request(StudyOptions(), "")
    with pytest.raises(ValueError, match="there is no file"):
        build_request(StudyOptions(photos=str(tmp_path / "none.parquet")), "")
    assert NEEDED.count(".") <= 2


def test_a_file_of_few_people_makes_no_study(tmp_path: Path) -> None:
    file = write_people(tmp_path / "two.parquet", {"a": [astronaut(0)], "b": [astronaut(2)]})
    request = StudyRequest(str(file), str(tmp_path), models={"m": "x"}, defenders={"RID": "x"})
    with Workers(WorkerSettings(n_workers=0)) as workers, pytest.raises(ValueError, match="has 2 people"):
        run_study(request, workers)

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, materialize
from small_studies import QUICK, looks, write_people

from rid.assets.personalization_study import personalization_study
from rid.assets.studies.page import aims
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places
from rid.training.evaluation.cells import DEFENDER, NOISE, base_cells
from rid.training.evaluation.statistics import bootstrap_mean
from rid.training.evaluation.study.summary import CellSummary, StudySummary
from rid.training.personalization import config as personalization

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"


def study(tmp_path: Path, **config: object) -> ExecuteInProcessResult:
    places = Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(WEIGHTS))
    with DagsterInstance.ephemeral() as instance:
        return materialize(
            [personalization_study],
            resources={"places": places, "dask": DaskCluster(n_workers=0)},
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {"personalization_study": {"config": config}}},
        )


def failure_of(result: ExecuteInProcessResult) -> str:
    assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return str(failure.event_specific_data)


@pytest.mark.slow
def test_the_asset_makes_a_page_and_says_what_was_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(personalization.PERSONALIZATION_RECIPES, "dreambooth_64", lambda: QUICK)
    people = write_people(tmp_path / "people.parquet", {f"p{i}": looks(i) * 2 for i in range(4)})
    result = study(
        tmp_path,
        photos=str(people),
        people=2,
        teachers=["encoder"],
        beside=[str(WEIGHTS / "ablation" / "adv_sds_only")],
    )
    assert result.success
    (event,) = result.asset_materializations_for_node("personalization_study")
    page = Path(str(event.metadata["page"].value).removeprefix("file://")).read_text()
    assert "adv_sds_only" in page and "encoder" in page and "advdm" not in page
    assert event.metadata["people"].value == 2 and event.metadata["void"].value is True
    assert "**missed**: personalisation on clean photos learns the identity" in str(event.metadata["aims"].value)
    assert "data:image/png;base64," in str(event.metadata["similarity"].value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"full": True, "factors": ["blur", "fog"]}, "there is no factor fog: a study has jpeg-95"),
        ({"teachers": ["magic"]}, "there is no teacher magic: a study has"),
        ({"beside": ["nobody"]}, "nobody"),
        ({"beside": ["a/one", "b/one"]}, "need names of their own; given"),
    ],
)
def test_a_study_that_cannot_be_fails_once_with_a_sentence(tmp_path: Path, config: dict, sentence: str) -> None:
    people = write_people(tmp_path / "people.parquet", {f"p{i}": looks(i) for i in range(4)})
    assert sentence in failure_of(study(tmp_path, photos=str(people), **config))


def summary_of(ism: dict[str, list[float]], distance: dict[str, float]) -> StudySummary:
    """A study of the base cells in which each kind or defender has these similarities and distances."""
    cells = base_cells(("RID", "plain"), ("encoder",), "embedded-64")
    clean = np.array(ism["clean"])
    rows = []
    comparisons = {}
    for cell in cells:
        values = np.array(ism[cell.name if cell.kind in (DEFENDER, "teacher") else cell.kind])
        row = CellSummary(cell, bootstrap_mean(values), 0.0)
        if cell.kind == "clean":
            row = replace(row, gain=bootstrap_mean(values - np.array(ism["untrained"])))
        elif cell.kind != "untrained":
            row = replace(
                row,
                effect=bootstrap_mean(clean - values),
                of_gain=bootstrap_mean(clean - values),
                quality={"ST-LPIPS (AlexNet)": distance.get(cell.name, 0.2)},
            )
            if cell.budget == 16:
                label = "noise of equal norm" if cell.kind == NOISE else cell.name
                comparisons[f"RID minus {label}"] = bootstrap_mean(values - np.array(ism["RID"]))
        rows.append(row)
    return StudySummary(rows, ["a", "b"], comparisons, void=False)


def test_the_judged_defender_is_compared_with_others_in_effect_and_in_looks() -> None:
    ism = {"untrained": [0.0, 0.1], "clean": [0.9, 0.9], "noise": [0.85, 0.9], "encoder": [0.3, 0.4]}
    ism |= {"RID": [0.2, 0.3], "plain": [0.25, 0.4]}
    better = aims(summary_of(ism, {"RID": 0.1, "plain": 0.15}))
    assert [aim.text for aim in better][-2:] == ["effect no worse than plain's", "better ST-LPIPS (AlexNet) than plain"]
    assert all(aim.met for aim in better)
    assert better[-1].reached == "0.100 to 0.150"
    worse = aims(summary_of(ism | {"plain": [0.1, 0.1]}, {"RID": 0.1, "plain": 0.1}))
    assert [aim.met for aim in worse][-2:] == [False, False]

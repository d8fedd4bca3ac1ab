import base64
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from rid.training.evaluation.cells import CLEAN, DEFENDER, NOISE, UNTRAINED, Cell
from rid.training.evaluation.judges.fid_inception import FEATURES
from rid.training.evaluation.judges.frechet import frechet_distance
from rid.training.evaluation.judges.identity import IdentitySpace, dlib_embedder
from rid.training.evaluation.statistics import bootstrap_mean, bootstrap_ratio
from rid.training.evaluation.study.summary import summarise

BASE = Cell(DEFENDER, "RID", 16)
CELLS = [BASE.untrained, BASE.reference, BASE, Cell(NOISE, "RID", 16), Cell(DEFENDER, "RID", 6)]


@cache
def space() -> IdentitySpace:
    return IdentitySpace(dlib_embedder(), np.zeros(4), -0.05)


def unit(cell: Cell, person: str, cosine: float, faceless: int = 0) -> dict:
    drawn = [cosine, float(np.sqrt(1 - cosine**2)), 0.0, 0.0]
    return {
        "cell": cell.key,
        "person": person,
        "embeddings": [drawn] * (4 - faceless) + [None] * faceless,
        "references": {"embeddings": [[1.0, 0.0, 0.0, 0.0], None]},
        "quality": {} if cell.kind in (CLEAN, UNTRAINED) else {"psnr": 25.0} | {person: 1.0},
        "protecting_seconds": 0.1,
    }


def table(values: dict[Cell, list[float]], **faceless: int) -> dict:
    return {
        (cell.key, f"p{i}"): unit(cell, f"p{i}", value, faceless.get(cell.kind, 0))
        for cell, cosines in values.items()
        for i, value in enumerate(cosines)
    }


LEARNED = dict(
    zip(CELLS, ([0.0, 0.1, 0.0], [0.6, 0.5, 0.7], [0.2, 0.1, 0.2], [0.6, 0.5, 0.6], [0.5, 0.4, 0.5]), strict=True)
)


def test_gain_effect_and_survival_are_as_defined() -> None:
    summary = summarise(CELLS, table(LEARNED), space())
    untrained, clean, rid, noise, weak = summary.cells
    assert not summary.void and not clean.void and untrained.gain is None
    assert clean.gain and clean.gain.mean == pytest.approx(np.mean([0.6, 0.4, 0.7]))
    assert rid.effect and rid.effect.mean == pytest.approx(np.mean([0.4, 0.4, 0.5]))
    assert rid.of_gain and rid.of_gain.mean == pytest.approx(1.3 / 1.7)
    assert rid.survival is None and weak.survival and weak.survival.mean == pytest.approx(0.4 / 1.3)
    assert noise.survival is None
    assert summary.comparisons["RID minus noise of equal norm"].mean == pytest.approx(1.2 / 3)
    assert list(summary.comparisons) == ["RID minus noise of equal norm"]


def test_what_was_measured_of_everybody_is_averaged() -> None:
    units = table(LEARNED)
    units[BASE.key, "p1"]["quality"]["psnr"] = 31.0
    row = summarise(CELLS, units, space()).cells[2]
    assert row.quality == {"psnr": pytest.approx(27.0)}


def test_the_frechet_distance_is_of_all_faces_and_of_inception_where_everybody_has_it() -> None:
    units = table(LEARNED, clean=1)
    clean = summarise(CELLS, units, space()).cells[1].frechet
    assert clean and (clean.drawn, clean.real, clean.extractor) == (9, 3, "dlib ResNet v1")
    drawn = [one for unit in units.values() if unit["cell"] == CELLS[1].key for one in unit["embeddings"] if one]
    real = [unit["references"]["embeddings"][0] for unit in units.values() if unit["cell"] == CELLS[1].key]
    assert clean.value == pytest.approx(frechet_distance(np.array(drawn), np.array(real)))
    random = np.random.default_rng(0)
    for unit in units.values():
        for side, count in ((unit, 4), (unit["references"], 2)):
            values = random.normal(size=(count, FEATURES)).astype(np.float32)
            side["features"] = base64.b64encode(values.tobytes()).decode()
    look = summarise(CELLS, units, space()).cells[1].frechet
    assert look and (look.drawn, look.real, look.extractor) == (12, 6, "Inception-v3, FID")


def test_a_study_in_which_nobody_was_learned_is_void() -> None:
    values = LEARNED | {CELLS[1]: [0.2, 0.0, -0.1]}
    summary = summarise(CELLS, table(values), space())
    assert summary.void
    assert all(row.of_gain is None for row in summary.cells)


def test_pictures_without_a_face_count_as_strangers() -> None:
    summary = summarise(CELLS, table(LEARNED, defender=2), space())
    assert summary.cells[2].fdfr == 0.5
    assert summary.cells[2].ism.mean == pytest.approx((np.mean([0.2, 0.1, 0.2]) - 0.05) / 2)
    assert summary.cells[2].faces and summary.cells[2].faces.mean == pytest.approx(np.mean([0.2, 0.1, 0.2]))
    nobody = summarise(CELLS, table(LEARNED, defender=4), space()).cells[2]
    assert (nobody.fdfr, nobody.faces) == (1.0, None) and nobody.ism.mean == pytest.approx(-0.05)


def test_only_people_that_every_cell_has_seen_count() -> None:
    units = table(LEARNED)
    del units[BASE.key, "p1"]
    assert summarise(CELLS, units, space()).people == ["p0", "p2"]
    del units[BASE.key, "p2"]
    with pytest.raises(ValueError, match="found 1"):
        summarise(CELLS, units, space())


def test_an_interval_of_a_ratio_resamples_people_not_values() -> None:
    effects, gains = np.array([0.1, 0.2, 0.4]), np.array([0.2, 0.4, 0.8])
    ratio = bootstrap_ratio(effects, gains)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert bootstrap_mean(effects).low < bootstrap_mean(effects).high
    with pytest.raises(ValueError, match="two samples"):
        bootstrap_ratio(effects, gains[:2])


def test_the_worst_case_is_the_row_that_least_survives_of_those_in_which_the_attack_works() -> None:
    rows = {
        "jpeg-75": ([0.6, 0.5, 0.7], [0.4, 0.3, 0.5]),
        "blur": ([0.6, 0.5, 0.7], [0.5, 0.4, 0.6]),
        "purify": ([0.0, 0.1, 0.0], [0.0, 0.1, 0.0]),
    }
    cells, values = list(CELLS), dict(LEARNED)
    for name, (clean, protected) in rows.items():
        row = replace(BASE, transform=name)
        cells += [row.reference, row]
        values |= {row.reference: clean, row: protected}
    summary = summarise(cells, table(values), space())
    assert summary.worst_case and summary.worst_case.cell.transform == "blur", "nobody is learned after purify"
    survival = summary.worst_case.survival
    assert survival and survival.mean == pytest.approx(0.3 / 1.3)
    assert summarise(CELLS, table(LEARNED), space()).worst_case is None, "a smaller budget is no attack"


def test_nothing_survives_an_attack_that_learns_nobody() -> None:
    weak = Cell(DEFENDER, "RID", 16, recipe="textual_inversion_64")
    cells = [*CELLS, weak.untrained, weak.reference, weak]
    values = LEARNED | dict(zip(cells[-3:], ([0.1, 0.1, 0.1], [0.0, 0.1, 0.2], [0.0, 0.0, 0.0]), strict=True))
    row = summarise(cells, table(values), space()).cells[-1]
    assert row.effect and row.of_gain is None and row.survival is None

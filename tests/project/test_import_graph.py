"""The benchmark that counts modules and imports: on packages whose shape is plain to see, and on ours."""

from pathlib import Path

import pytest

from benchmarks.import_graph import shape_of


def write_package(folder: Path, name: str, modules: dict[str, str]) -> None:
    (folder / name).mkdir()
    for module, code in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(code)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where the cache of the graph goes
    return tmp_path


def test_the_longest_path_is_counted_in_modules(folder: Path) -> None:
    top = "import plain.low\ndef late():\n    import plain.middle\n"
    write_package(folder, "plain", {"top": top, "middle": "from plain import low", "low": "import json"})
    shape = shape_of("plain")
    assert (shape.modules, shape.imports, shape.circle, shape.fullest) == (4, 3, (), ("plain", 3))
    assert shape.longest == ("plain.top", "plain.middle", "plain.low")


def test_a_circle_is_named(folder: Path) -> None:
    write_package(folder, "round", {"one": "import round.two", "two": "import round.one", "three": "import round.one"})
    shape = shape_of("round")
    assert set(shape.circle) == {"round.one", "round.two"}
    assert shape.longest == ()


def test_ours_has_no_circle(folder: Path) -> None:
    shape = shape_of("rid")
    assert shape.circle == ()
    assert shape.imports > shape.modules > 200

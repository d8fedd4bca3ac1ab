"""docs/method.md names files, functions and tests; each has to be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("models", "training", "tests")
    for path in (ROOT / folder).rglob("*.py")
}


def test_every_named_file_is_there() -> None:
    names = set(re.findall(r"`([\w/]+\.py)`", TEXT))
    assert len(names) > 30
    assert [name for name in names if not any(f"/{path}".endswith(f"/{name}") for path in SOURCES)] == []


def test_every_named_function_is_in_the_file_named_beside_it() -> None:
    pairs = re.findall(r"`([\w/]+\.py)`: `(?:\w+\.)?(\w+)`", TEXT)
    assert len(pairs) > 15
    assert [pair for pair in pairs if not re.search(rf"(def|class) {pair[1]}\b", SOURCES[pair[0]])] == []


def test_every_named_test_is_there() -> None:
    tests = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(tests) > 5
    everything = "\n".join(SOURCES.values())
    assert [test for test in tests if f"def {test}(" not in everything] == []


def test_every_teacher_is_listed() -> None:
    from rid.training.teachers.methods import TEACHERS

    files = {teacher.__module__.rpartition(".")[2] for teacher in TEACHERS.values()}
    assert [file for file in files if f"`{file}.py`" not in TEXT] == []

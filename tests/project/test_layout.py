import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["assets", "dagster_project", "models", "resources", "training"]
HEAVY = ("torch", "diffusers", "transformers", "onnxruntime")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_those_of_this_checkout(name: str) -> None:
    assert Path(importlib.import_module(f"rid.{name}").__file__).resolve().parent == ROOT / name


@pytest.mark.parametrize(
    "module", ["rid.dagster_project.definitions", "rid.dagster_project.cli", "rid.assets.protection.shards.task"]
)
def test_loading_a_module_loads_nothing_heavy(module: str) -> None:
    load = "; defs()" if module.endswith("definitions") else ""
    names = "; from rid.dagster_project.definitions import defs" if load else ""
    code = f"import sys, {module}{names}{load}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_stay_of_a_size_that_can_be_read() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_no_file_is_called_by_what_it_is_not() -> None:
    names = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert not names & {"utils.py", "common.py", "helpers.py", "misc.py"}


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in (*PACKAGES, "benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r'\s*"""(What|Whether|How)\b', line)
    ]
    assert wrong == []


def test_every_asset_job_and_check_says_what_it_does() -> None:
    from rid.dagster_project.definitions import defs

    definitions = defs()
    for key in definitions.resolve_all_asset_keys():
        spec = definitions.resolve_assets_def(key).get_asset_spec(key)
        assert spec.description, key
        assert spec.group_name != "default", key
        assert spec.kinds, key
    for job in definitions.jobs or ():
        assert job.description, job.name


def test_loading_reads_the_environment_when_asked_not_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    from rid.dagster_project.definitions import defs

    monkeypatch.setenv("RID_SOURCE", "/somewhere/else")
    places = (defs().resources or {})["places"]
    assert places.source == "/somewhere/else"

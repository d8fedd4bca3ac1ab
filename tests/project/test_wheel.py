"""The wheel installs under one name, and names beside the user do not reach into it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("assets", "dagster_project", "models", "resources", "training")


def test_every_folder_is_linked_under_the_import_root() -> None:
    for folder in FOLDERS:
        assert (ROOT / "rid" / folder).is_symlink()
        assert (ROOT / "rid" / folder).resolve() == (ROOT / folder).resolve()


@pytest.mark.slow
def test_a_wheel_holds_everything_under_rid_and_works_beside_a_models_py(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names if not name.startswith("rid_catalog-")} == {"rid"}
    for folder in FOLDERS:
        files = {
            f"rid/{path.relative_to(ROOT).as_posix()}"
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".jinja") or path.name == "config.json"
        }
        assert files
        assert files <= names
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in FOLDERS:
        (elsewhere / f"{folder}.py").write_text("raise SystemExit('a module of the user was imported')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import rid.assets.protection.run, rid.dagster_project.cli, rid.models.policy\n"
        "from rid.dagster_project.settings import WEIGHTS\n"
        "print(rid.__file__); print(WEIGHTS)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=elsewhere, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [str(site / "rid" / "__init__.py"), str(site / "rid" / "models" / "weights")]

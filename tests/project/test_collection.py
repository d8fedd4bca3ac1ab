"""Heavy packages are loaded by the tests that use them, and not while tests are collected."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "accelerate",
    "cryptography",
    "diffusers",
    "distributed",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "peft",
    "playwright",
    "s3fs",
    "scipy.signal",
    "scipy.stats",
    "skimage.io",
    "skimage.metrics",
    "tensorboard",
    "transformers",
)
COLLECT = """
import sys
import pytest

def collect(*arguments):
    code = pytest.main(["-p", "no:cacheprovider", "--collect-only", "-q", "-q", *arguments])
    assert code == 0, f"pytest ended with {code}"

def loaded(names):
    return [name for name in names if name in sys.modules]
"""


def run(code: str) -> str:
    """Runs code in a fresh process and returns the last line that it printed."""
    done = subprocess.run([sys.executable, "-c", COLLECT + code], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_collecting_everything_loads_nothing_heavy() -> None:
    assert run(f"collect(); print(loaded({HEAVY}))") == "[]"


@pytest.mark.slow
def test_torch_and_dagster_are_loaded_by_tests_of_networks_and_assets_alone() -> None:
    catalogs = ["tests/custody", "tests/photo_files", "tests/reports", "tests/protection", "tests/resources"]
    of_networks = ["protection/test_published_defects.py", "resources/test_defender_registry.py"]
    ignored = [f"--ignore=tests/{file}" for file in of_networks]
    assert run(f"collect(*{catalogs + ignored}); print(loaded(['torch']))") == "[]"
    networks = ["tests/evaluation", "tests/photo_files", "tests/training"]
    assert run(f"collect(*{networks}); print(loaded(['dagster']))") == "[]"

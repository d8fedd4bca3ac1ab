import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.lambda_sweep import grid_share, sweep_configs


def test_the_grid_share_tells_a_grid_from_noise() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=(4, 64, 64, 3))
    tile = np.tile(random.normal(size=(4, 8, 8, 3)), (1, 8, 8, 1))
    assert grid_share(noise, 8) == pytest.approx(1 / 64, rel=0.2)
    assert grid_share(tile + 3, 8) == pytest.approx(1.0)  # a colour cast is not counted
    assert grid_share(tile + noise, 8) == pytest.approx(0.5, abs=0.05)


def test_the_sweep_changes_one_weight_at_a_time() -> None:
    configs = sweep_configs([1.0, 10.0], {"steps": 7})
    assert list(configs) == ["adv_sds_only", "lambda 1", "lambda 10", "regression_only"]
    same = [
        {**config.to_json(), "recipe": "", "adv_sds_weight": 0, "regression_weight": 0} for config in configs.values()
    ]
    assert all(one == same[0] for one in same)
    assert same[0]["steps"] == 7


@pytest.mark.slow
def test_the_training_step_benchmark_keeps_its_memory_target() -> None:
    """Allocated bytes do not depend on the machine's load; times do and are not judged here."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--rounds", "1", "--batch", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    found = re.fullmatch(r"training_step time_ratio=(\d\.\d\d) memory_ratio=(\d\.\d\d)", last)
    assert found is not None, last
    assert float(found[2]) <= 0.4
    assert "+ checkpointing" in done.stdout

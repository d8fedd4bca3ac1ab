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


@pytest.mark.slow
def test_a_training_over_four_times_the_photos_holds_no_more_in_memory() -> None:
    """One set is decoded and one made up; the larger one's squares alone are 94 MiB."""
    command = [sys.executable, "-m", "benchmarks.training_scale", "--photos", "2000", "8000"]
    done = subprocess.run([*command, "--decoded", "2000", "--seconds", "4"], capture_output=True, text=True, check=True)
    found = re.findall(
        r"(\d+):driver_mib=(\d+),trainer_mib=(\d+),batches_per_s=(\d+\.\d)", done.stdout.strip().splitlines()[-1]
    )
    assert [int(photos) for photos, *_ in found] == [2000, 8000]
    (_, driver, trainer, _), (_, larger_driver, larger_trainer, _) = found
    assert int(larger_driver) - int(driver) < 40
    assert int(larger_trainer) - int(trainer) < 90  # at most what a reader keeps mapped
    assert "2 left out" in done.stdout

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_photos import encoded, photograph
from random_defenders import photos, randomised
from small_catalogs import write_photos
from tiny_defender import write_tiny_defender
from training_runs import CONFIG, train_small

from rid.assets.configs import ProtectionConfig, drop_request
from rid.models.budget import BudgetRange, levels_to_signed, signed_to_levels
from rid.models.checkpoint import DefenderCard, load_defender, save_defender
from rid.models.defender import SIZES, Defender, fold
from rid.models.engines import OnnxEngine
from rid.models.photo_files.images import decode
from rid.models.policy import READ_ALL, ProtectionPolicy
from rid.models.protector import Protector
from rid.resources.places import Places

SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "default"
ANY, FIXED = BudgetRange(1, 16, 6), BudgetRange(6, 6, 6)


def saved(folder: Path, budget: BudgetRange) -> Defender:
    """A defender with large random weights, as a user reads it back."""
    save_defender(folder, randomised(SIZES["tiny-32"]), DefenderCard("test", "of a test", budget, "MIT", "a test"))
    return load_defender(folder)[0]


def test_the_papers_units_are_twice_a_level() -> None:
    assert levels_to_signed(6) == 12 / 255
    assert [signed_to_levels(Fraction(n, 255)) for n in (6, 8, 12)] == [3, 4, 6]


@torch.no_grad()
def test_one_network_keeps_every_budget_from_1_to_16(tmp_path: Path) -> None:
    defender, image = saved(tmp_path, ANY), photos(2, 32)
    share = defender(image, torch.ones(2))
    assert share.abs().max() > 0.9
    for budget in range(1, 17):
        levels = defender(image, torch.full((2,), float(budget)))
        assert levels.abs().max() <= budget
        torch.testing.assert_close(levels, budget * share)
        rounded = levels.round().abs().max()
        assert 0 < rounded <= budget


def test_the_shipped_defender_keeps_every_budget_in_the_written_file() -> None:
    """After upsampling, rounding, encoding and decoding."""
    engine = OnnxEngine((SHIPPED / "model.onnx").read_bytes())
    data = encoded(photograph(150, 130), "PNG")
    before = decode(data, READ_ALL).pixels.astype(int)
    largest, changes = [], []
    for budget in range(1, 17):
        protected = Protector(engine, ProtectionPolicy(), budget).protect(data)
        change = np.abs(decode(protected.data, READ_ALL).pixels.astype(int) - before)
        assert change.max() == protected.linf_levels <= budget
        largest.append(int(change.max()))
        changes.append(float(change.mean()))
    assert changes == sorted(changes) and changes[-1] > 4 * changes[0] > 0
    assert largest[-1] > 8


@pytest.mark.parametrize("budgets", [[7.0], [16.0], [5.0], [0.0], [-6.0], [float("nan")], [6.0, 12.0]])
def test_a_network_of_a_fixed_budget_refuses_others(tmp_path: Path, budgets: list[float]) -> None:
    defender = saved(tmp_path, FIXED)
    assert defender(photos(1, 32), torch.tensor([6.0])).abs().max() <= 6
    for network in (defender, fold(defender)):
        with pytest.raises(ValueError, match=r"was trained for a fixed budget of 6 of 255 levels, not ") as caught:
            network(photos(len(budgets), 32), torch.tensor(budgets))
        assert "\n" not in str(caught.value)


def test_a_network_of_a_range_refuses_what_is_outside(tmp_path: Path) -> None:
    defender = saved(tmp_path, BudgetRange(2, 8, 4))
    for budget in (1.0, 9.0):
        with pytest.raises(ValueError, match=r"was trained for budgets of 2 to 8 of 255 levels, not "):
            defender(photos(1, 32), torch.tensor([budget]))


def test_what_a_run_returns_refuses_other_budgets_than_the_runs(tmp_path: Path) -> None:
    trained = train_small(tmp_path, steps=1, budget_min=6, budget_max=6, budget_default=6, regression_weight=0.0)
    with pytest.raises(ValueError, match=r"was trained for a fixed budget of 6"):
        trained(photos(1, 32), torch.tensor([8.0]))
    assert train_small(tmp_path / "any", steps=1).budget == BudgetRange(CONFIG.budget_min, CONFIG.budget_max, 6)


def test_a_range_that_is_none_is_refused() -> None:
    for numbers in ((6, 4, 5), (1, 16, 17), (0, 6, 3), (1, 17, 6), (1, 16, True)):
        with pytest.raises(ValueError, match="budget"):
            BudgetRange(*numbers)


def fix_budget(folder: Path, levels: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["budget"] = {"min": levels, "max": levels, "default": levels}
    (folder / "config.json").write_text(json.dumps(config))


def test_rid_protect_refuses_a_budget_that_was_not_trained_for(rid: Any, tmp_path: Path) -> None:
    fix_budget(tmp_path / "defender", 6)
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "policy.json").write_text('{"budget_levels": 12}')
    command = ("protect", "photos", "out", "--defender", "defender", "--workers", "0")
    for more in (("--budget", "8"), ("--budget", "4"), ("--policy", "policy.json")):
        code, out, err = rid(*command, *more)
        assert (code, out) == (5, "") and err.count("\n") == 1
        assert "was trained for a fixed budget of 6 of 255 levels, not" in err
        assert not (tmp_path / "out").exists()
    assert rid(*command, "--budget", "6")[0] == 0
    rid("defenders", "promote", "defender", "--although-it-fails")
    assert "a fixed budget of 6 of 255 levels" in rid("defenders", "list")[1]


def test_assets_refuse_a_budget_that_was_not_trained_for(tmp_path: Path) -> None:
    write_tiny_defender(tmp_path / "weights" / "default")
    fix_budget(tmp_path / "weights" / "default", 6)
    write_photos(tmp_path / "source" / "monday", 1)
    places = Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(tmp_path / "weights"))
    for config in (ProtectionConfig(budget_levels=8), ProtectionConfig(policy_json='{"budget_levels": 8}')):
        with pytest.raises(ValueError, match="was trained for a fixed budget of 6 of 255 levels, not 8"):
            drop_request("monday", config, places)
    assert drop_request("monday", ProtectionConfig(), places).budget_levels == 6

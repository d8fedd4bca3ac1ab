import pytest
import torch
from random_defenders import photos, randomised

from rid.models.defender import SIZES, Defender, DefenderSize, fold, sincos_positions


def test_a_fresh_defender_changes_nothing() -> None:
    defender = Defender(SIZES["tiny-32"])
    assert torch.equal(defender(photos(2, 32), torch.tensor([1.0, 16.0])), torch.zeros(2, 3, 32, 32))


@torch.no_grad()
def test_each_photo_has_its_own_budget_and_the_budget_only_scales() -> None:
    defender = randomised(SIZES["tiny-32"])
    image = photos(1, 32).expand(2, -1, -1, -1)
    small, large = defender(image, torch.tensor([2.0, 16.0]))
    assert small.abs().max() <= 2
    assert large.abs().max() > 2
    torch.testing.assert_close(8 * small, large)


@torch.no_grad()
def test_folding_changes_the_output_by_rounding_only() -> None:
    defender = randomised(SIZES["tiny-32"])
    image, budget = photos(4, 32), torch.ones(4)
    folded = fold(defender)
    assert (folded(image, budget) - defender(image, budget)).abs().max() < 1e-5
    assert all(torch.equal(block.gate1, torch.ones_like(block.gate1)) for block in folded.blocks)


def test_unpatchify_orders_rows_columns_and_channels() -> None:
    defender = Defender(SIZES["tiny-32"])
    tokens = torch.zeros(1, 16, 8 * 8 * 3)
    tokens[0, 5, (2 * 8 + 3) * 3 + 1] = 1.0  # token (1, 1): row 2, column 3, green
    assert defender.unpatchify(tokens).nonzero().tolist() == [[0, 1, 8 + 2, 8 + 3]]


def test_positions_are_distinct_and_bounded() -> None:
    positions = sincos_positions(32, 4)
    assert positions.shape == (16, 32)
    assert positions.abs().max() <= 1
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0


def test_the_reference_size_has_the_folded_parameter_count() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Defender(SIZES["rid-512"]).parameters())
    assert 224e6 < count < 226e6  # 225 M, as the method says


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(ValueError, match="patch must divide"):
        DefenderSize(working_resolution=30, patch=8, width=32, depth=1, heads=2)

from dataclasses import replace

import pytest
import torch
from training_runs import CONFIG, make_batch, random_model, small_photo_set

from rid.models.budget import levels_to_signed
from rid.models.defender import SIZES, Defender
from rid.training.losses import training_losses
from rid.training.regression import regression_loss


def test_regression_loss_is_the_mean_square_and_its_gradient_points_to_the_teacher() -> None:
    perturbation = torch.full((2, 3, 2, 2), 0.5, requires_grad=True)
    teacher = torch.zeros(2, 3, 2, 2)
    loss = regression_loss(perturbation, teacher)
    loss.backward()
    assert loss == 0.25
    torch.testing.assert_close(perturbation.grad, 2 * (perturbation.detach() - teacher) / perturbation.numel())


def moving_defender() -> Defender:
    """A small network with random last layer and gates, so that it outputs something."""
    torch.manual_seed(0)
    defender = Defender(SIZES[CONFIG.size])
    for name, parameter in defender.named_parameters():
        if "gate" in name or name == "linear.weight":
            torch.nn.init.normal_(parameter, std=0.1)
    return defender


def test_the_total_is_adv_sds_plus_lambda_times_the_regression() -> None:
    """The published trainer multiplies the regression by 0."""
    defender, models, batch = moving_defender(), [random_model()], make_batch(small_photo_set(), CONFIG, 0)
    both = training_losses(defender, models, batch, CONFIG, 0)
    tenfold = training_losses(defender, models, batch, replace(CONFIG, regression_weight=100.0), 0)
    assert both.regression > 0 and both.adv_sds > 0
    assert tenfold.regression.item() == pytest.approx(10 * both.regression.item(), rel=1e-6)
    assert torch.equal(tenfold.adv_sds, both.adv_sds)
    predicted = levels_to_signed(defender(batch.pair_image, batch.pair_budget_levels))
    alone = CONFIG.regression_weight * regression_loss(predicted, batch.pair_perturbation)
    assert both.regression.item() == pytest.approx(alone.item(), rel=1e-5)


def test_the_regression_reaches_the_weights() -> None:
    defender, batch = moving_defender(), make_batch(small_photo_set(), replace(CONFIG, adv_sds_weight=0.0), 0)
    losses = training_losses(defender, [], batch, replace(CONFIG, adv_sds_weight=0.0), 0)
    assert losses.adv_sds == 0
    losses.regression.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in defender.parameters())


def test_photos_without_a_perturbation_take_no_part_in_the_regression() -> None:
    photos = small_photo_set(pairs=0)
    losses = training_losses(moving_defender(), [random_model()], make_batch(photos, CONFIG, 0), CONFIG, 0)
    assert losses.regression == 0 < losses.adv_sds

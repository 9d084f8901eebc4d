import math

import pytest
import torch

from custom.losses.log_cosh_dice import LogCoshDiceLoss


@pytest.mark.parametrize(
    "target, dice",
    [([1, 1, 0, 0], 1 / 2), ([1, 0, 0, 0], 1 / 3), ([1, 1, 1, 1], 2 / 3), ([0, 0, 0, 0], 0)],
)
def test_by_hand(target, dice):
    value = LogCoshDiceLoss()(torch.zeros(1, 1, 2, 2), torch.tensor(target).view(1, 1, 2, 2))
    assert value == pytest.approx(math.log(math.cosh(1 - dice)), abs=1e-5)


def test_regions_are_averaged_after_the_log_cosh():
    target = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).view(1, 2, 2, 2)
    expected = (math.log(math.cosh(1 / 2)) + math.log(math.cosh(1 / 3))) / 2
    assert LogCoshDiceLoss()(torch.zeros(1, 2, 2, 2), target) == pytest.approx(expected, abs=1e-5)


def test_the_slope_is_the_tanh_of_the_dice_loss():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    LogCoshDiceLoss()(logits, target).backward()
    # dDice/dp = (2 y S - 2 tp) / S^2 with S = 4 and tp = 1, and dp/dlogit = 1/4.
    slope_inside = -math.tanh(0.5) * (2 * 4 - 2) / 16 / 4
    assert float(logits.grad[0, 0, 0, 0]) == pytest.approx(slope_inside, abs=1e-5)


def test_slices_alone_or_pooled():
    logits = torch.zeros(2, 1, 2, 2)
    target = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).view(2, 1, 2, 2)
    alone = (math.log(math.cosh(1 / 3)) + math.log(math.cosh(1))) / 2
    assert LogCoshDiceLoss(batch=False)(logits, target) == pytest.approx(alone, abs=1e-5)
    assert LogCoshDiceLoss()(logits, target) == pytest.approx(math.log(math.cosh(1 / 2)), abs=1e-5)

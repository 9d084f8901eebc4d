import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from custom.errors import DataError
from custom.losses.bce_dice import BCEDiceLoss

ZERO = [0.0, 0.0, 0.0, 0.0]
# Logit 0 is probability 1/2: BCE is log 2, and Dice is 2 * tp / (sum of probabilities + size of the region).
TABLE = {
    "half right": (ZERO, [1, 1, 0, 0], math.log(2), 1 - 2 * 1 / (2 + 2)),
    "one voxel": (ZERO, [1, 0, 0, 0], math.log(2), 1 - 2 * 0.5 / (2 + 1)),
    "all": (ZERO, [1, 1, 1, 1], math.log(2), 1 - 2 * 2 / (2 + 4)),
    "empty": (ZERO, [0, 0, 0, 0], math.log(2), 1.0),
    "log 3 is 3/4": ([math.log(3)] * 4, [1, 1, 0, 0], (-math.log(0.75) - math.log(0.25)) / 2, 1 - 2 * 1.5 / (3 + 2)),
}


@pytest.mark.parametrize("logits, target, bce, dice", TABLE.values(), ids=TABLE)
def test_by_hand(logits, target, bce, dice):
    loss = BCEDiceLoss(lambda_bce=0.25, lambda_dice=0.75)
    value = loss(torch.tensor(logits).view(1, 1, 2, 2), torch.tensor(target).view(1, 1, 2, 2))
    assert value == pytest.approx(0.25 * bce + 0.75 * dice, abs=1e-5)


def test_channels_and_regions_are_as_many():
    with pytest.raises(DataError, match="out_channels: found 2 channels for 1 regions"):
        BCEDiceLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))


def test_the_default_is_half_and_half():
    value = BCEDiceLoss()(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert value == pytest.approx(0.5 * math.log(2) + 0.5 / 3, abs=1e-5)


def random_pair(regions):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, regions, 6, 5, generator=generator)
    return logits, (torch.rand(3, regions, 6, 5, generator=generator) > 0.6).float()


def test_one_region_is_monais_dice_ce():
    logits, target = random_pair(regions=1)
    monai_loss = DiceCELoss(sigmoid=True, lambda_dice=0.5, lambda_ce=0.5, batch=True)
    assert BCEDiceLoss()(logits, target) == pytest.approx(float(monai_loss(logits, target)), rel=1e-6)


def test_two_regions_are_the_mean_of_each_alone():
    """MONAI's DiceCELoss fails this: it makes the two regions compete in a softmax."""
    logits, target = random_pair(regions=2)
    alone = [BCEDiceLoss()(logits[:, c : c + 1], target[:, c : c + 1]) for c in range(2)]
    assert BCEDiceLoss()(logits, target) == pytest.approx(float(sum(alone) / 2), rel=1e-6)
    softmax = DiceCELoss(sigmoid=True, lambda_dice=0.5, lambda_ce=0.5, batch=True)(logits, target)
    assert abs(softmax - sum(alone) / 2) > 0.01


def test_batch_false_is_the_mean_over_slices():
    logits, target = random_pair(regions=2)
    value = BCEDiceLoss(lambda_bce=0, lambda_dice=1, batch=False)(logits, target)
    assert value == pytest.approx(float(DiceLoss(sigmoid=True)(logits, target)), rel=1e-6)

import pytest
import torch
from monai.losses import TverskyLoss

from custom.losses.focal_tversky import FocalTverskyLoss

# Logit 0 is probability 1/2 on four voxels; tp, fp and fn by hand, then TI = tp / (tp + 0.3 fp + 0.7 fn).
TABLE = {
    "half": ([1, 1, 0, 0], 1 / (1 + 0.3 * 1 + 0.7 * 1)),
    "one": ([1, 0, 0, 0], 0.5 / (0.5 + 0.3 * 1.5 + 0.7 * 0.5)),
    "all": ([1, 1, 1, 1], 2 / (2 + 0.7 * 2)),
    "empty": ([0, 0, 0, 0], 0.0),
}


@pytest.mark.parametrize("target, index", TABLE.values(), ids=TABLE)
@pytest.mark.parametrize("gamma", [1, 4 / 3, 2])
def test_by_hand(target, index, gamma):
    value = FocalTverskyLoss(gamma=gamma)(torch.zeros(1, 1, 2, 2), torch.tensor(target).view(1, 1, 2, 2))
    assert value == pytest.approx((1 - index) ** (1 / gamma), abs=1e-4)


@pytest.mark.parametrize("batch", [True, False])
def test_gamma_one_is_monais_tversky(batch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 5, 5, generator=generator)
    target = (torch.rand(3, 2, 5, 5, generator=generator) > 0.5).float()
    expected = TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, batch=batch)(logits, target)
    assert FocalTverskyLoss(gamma=1, batch=batch)(logits, target) == pytest.approx(float(expected), rel=1e-6)


def test_each_region_has_its_own_exponent():
    """The mean of powers, not the power of the mean."""
    logits = torch.zeros(1, 2, 2, 2)
    target = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).view(1, 2, 2, 2)
    expected = sum((1 - TABLE[name][1]) ** 0.75 for name in ("half", "one")) / 2
    assert FocalTverskyLoss()(logits, target) == pytest.approx(expected, abs=1e-4)


def test_perfect_prediction_has_a_finite_gradient():
    """x ** 0.75 has an infinite slope at 0, which is where a saturated right answer lies."""
    target = torch.ones(1, 1, 4, 4)
    logits = torch.full_like(target, 100.0, requires_grad=True)
    FocalTverskyLoss()(logits, target).backward()
    assert torch.equal(logits.grad, torch.zeros_like(target))

from itertools import product

import pytest
import torch

from custom.losses.lovasz import LovaszHingeLoss


def jaccard_loss(wrong, target):
    """1 - IoU when the voxels in ``wrong`` are mispredicted, from the sets themselves."""
    predicted = [bool(t) != bool(w) for t, w in zip(target, wrong, strict=True)]
    union = sum(p or bool(t) for p, t in zip(predicted, target, strict=True))
    both = sum(p and bool(t) for p, t in zip(predicted, target, strict=True))
    return 1 - both / union if union else 0.0


def logits_with_errors(errors, target):
    """Logits whose hinge error max(0, 1 - logit * sign) is the given one."""
    return torch.tensor([(1 - e) * (1 if t else -1) for e, t in zip(errors, target, strict=True)])


@pytest.mark.parametrize("target", product([0, 1], repeat=4))
def test_on_sets_of_wrong_voxels_it_is_the_jaccard_loss(target):
    """The defining property of a Lovász extension: on the corners of the cube it is the set function."""
    for wrong in product([0, 1], repeat=4):
        logits = logits_with_errors(wrong, target).view(1, 1, 2, 2)
        value = LovaszHingeLoss()(logits, torch.tensor(target).view(1, 1, 2, 2))
        assert value == pytest.approx(jaccard_loss(wrong, target), abs=1e-6)


def test_between_the_corners_by_hand():
    # Errors 0.9 (outside), 0.5 (inside), 0.2 (inside); J of {a} = 1/3, {a, b} = 2/3, {a, b, c} = 1.
    value = LovaszHingeLoss()(
        logits_with_errors([0.5, 0.9, 0.2], [1, 0, 1]).view(1, 1, 1, 3), torch.tensor([[[[1, 0, 1]]]])
    )
    assert value == pytest.approx(0.9 / 3 + 0.5 / 3 + 0.2 / 3, abs=1e-6)


def test_absent_region_costs_its_worst_false_alarm():
    logits = torch.tensor([0.4, -3.0, 2.0, -0.5]).view(1, 1, 2, 2)
    assert LovaszHingeLoss()(logits, torch.zeros(1, 1, 2, 2)) == pytest.approx(3.0)


def test_hinge_is_not_below_zero():
    target = torch.tensor([[[[1.0, 0.0]]]])
    assert LovaszHingeLoss()(5 * (2 * target - 1), target) == 0


def test_regions_and_slices_are_averaged():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, generator=generator)
    target = (torch.rand(2, 2, 4, 4, generator=generator) > 0.5).float()
    loss = LovaszHingeLoss(batch=False)
    alone = [loss(logits[b : b + 1, c : c + 1], target[b : b + 1, c : c + 1]) for b in range(2) for c in range(2)]
    assert loss(logits, target) == pytest.approx(float(sum(alone) / 4), rel=1e-6)
    pooled = LovaszHingeLoss()(logits, target)
    side_by_side = loss(torch.cat(list(logits[:, None]), -1), torch.cat(list(target[:, None]), -1))
    assert pooled == pytest.approx(float(side_by_side), rel=1e-6)

import math

import pytest
import torch

from custom.losses.medial_recall import MedialRecallLoss


def target_of(label: torch.Tensor, medial: torch.Tensor) -> torch.Tensor:
    return torch.cat([label, medial, torch.zeros_like(label)], dim=1)


def test_hand_computed():
    """Medial voxels with p = 1/2 and 3/4 and one ignored: recall (1.25 + 1) / (2 + 1)."""
    logits = torch.tensor([[0.0] * 5, [0.0, math.log(3), 9.0, 9.0, -3.0]]).reshape(1, 2, 1, 1, 5).requires_grad_()
    label = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0]).reshape(1, 1, 1, 1, 5)
    medial = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 1, 5)
    value = MedialRecallLoss()(logits, target_of(label, medial))
    assert value.item() == pytest.approx(1 - 2.25 / 3, abs=1e-6)
    value.backward()
    surface = logits.grad[0, 1].flatten()
    assert (surface[:2] < 0).all()
    assert (surface[2:] == 0).all()


def test_each_patch_counts_alike():
    """One patch with 1 medial voxel missed, one with 8 found: the mean of both recalls."""
    label = torch.ones(2, 1, 2, 2, 2)
    medial = torch.ones_like(label)
    medial[0] = 0
    medial[0, 0, 0, 0, 0] = 1
    score = torch.full_like(label, 40.0)
    score[0] = -40
    value = MedialRecallLoss()(torch.cat([-score, score], 1), target_of(label, medial))
    assert value.item() == pytest.approx(((1 - 1 / 2) + 0) / 2, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_without_medial_surface_it_is_zero(value):
    logits = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    label = torch.full((1, 1, 3, 3, 3), value)
    medial = torch.full_like(label, value / 2)  # a wrong medial surface where everything is ignored must not matter
    loss = MedialRecallLoss()(logits, target_of(label, medial))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_half_inputs_are_summed_in_float32():
    """70 000 medial voxels overflow a float16 sum."""
    label = torch.ones(1, 1, 10, 70, 100)
    logits = torch.zeros(1, 2, 10, 70, 100, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        value = MedialRecallLoss()(logits, target_of(label, label).half())
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.5, abs=1e-4)
    assert logits.grad.isfinite().all()


def test_refuses_a_plain_label():
    with pytest.raises(ValueError, match="reads medial"):
        MedialRecallLoss()(torch.zeros(1, 2, 3, 3, 3), torch.zeros(1, 1, 3, 3, 3))

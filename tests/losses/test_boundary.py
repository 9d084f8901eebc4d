import math

import pytest
import torch

from custom.losses.boundary import SurfaceDistanceLoss
from custom.ops.target_layout import surface_targets


def target_of(label: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    return torch.cat([label, torch.zeros_like(label), distance], dim=1)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def test_hand_computed():
    """p = 1/2, 3/4, 1/2, ignored against the labels 1, 0, 0 at -0.1, 0.2, 0.6."""
    logits = torch.cat([row(0, 0, 0, 0), row(0, math.log(3), 0, 9)], dim=1).requires_grad_()
    target = target_of(row(1, 0, 0, 2), row(-0.1, 0.2, 0.6, 0.9))
    value = SurfaceDistanceLoss()(logits, target)
    assert value.item() == pytest.approx((0.5 * 0.1 + 0.75 * 0.2 + 0.5 * 0.6) / 3, abs=1e-6)
    value.backward()
    assert [math.copysign(1, g) if g else 0 for g in logits.grad[0, 1].flatten().tolist()] == [-1, 1, 1, 0]


def test_gradient_is_that_of_the_published_loss():
    """Kervadec's integral of phi * p: the subtracted label is a constant."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 2, 4, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    label = torch.randint(0, 2, (2, 1, 4, 5, 6), generator=generator)
    distance = torch.randn(label.shape, generator=generator, dtype=torch.float64)
    SurfaceDistanceLoss()(ours, target_of(label.double(), distance)).backward()
    (theirs.softmax(1)[:, 1:] * distance).mean().backward()
    assert torch.allclose(ours.grad, theirs.grad)


def test_farther_errors_cost_more_and_the_label_costs_nothing():
    label = torch.zeros(1, 1, 12, 8, 8)
    label[:, :, 2:4] = 1
    target = surface_targets(label[0], 20.0)

    def loss(prediction: torch.Tensor) -> float:
        return SurfaceDistanceLoss()(torch.cat([1 - prediction, prediction], 1) * 40, target).item()

    shifted = [loss(label.roll(step, 2)) for step in range(5)]
    assert shifted[0] == pytest.approx(0, abs=1e-6)
    assert shifted == sorted(shifted)
    assert shifted[1] > 0


def test_ignored_voxels_change_nothing():
    logits = torch.randn(1, 2, 4, 4, 4)
    label = torch.zeros(1, 1, 4, 4, 4)
    label[..., 2:] = 2
    target = target_of(label, torch.rand_like(label))
    other = torch.where(label == 2, 50.0, logits)
    assert torch.equal(SurfaceDistanceLoss()(other, target), SurfaceDistanceLoss()(logits, target))


def test_everything_ignored_is_zero():
    logits = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    label = torch.full((1, 1, 4, 4, 4), 2.0)
    value = SurfaceDistanceLoss()(logits, target_of(label, torch.ones_like(label)))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_half_inputs():
    logits = torch.zeros(1, 2, 10, 70, 100, dtype=torch.float16, requires_grad=True)
    label = torch.zeros(1, 1, 10, 70, 100)
    with torch.autocast("cpu", dtype=torch.float16):
        value = SurfaceDistanceLoss()(logits, target_of(label, torch.ones_like(label)).half())
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.5)
    assert logits.grad.isfinite().all()


def test_refuses_a_plain_label():
    with pytest.raises(ValueError, match="reads distance"):
        SurfaceDistanceLoss()(torch.zeros(1, 2, 3, 3, 3), torch.zeros(1, 1, 3, 3, 3))

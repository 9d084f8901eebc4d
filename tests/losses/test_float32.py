"""Every loss the liver's configs name, where half precision and empty slices hurt; and the wrapper itself."""

import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss, DiceFocalLoss, DiceLoss, TverskyLoss

from custom.losses.bce_dice import BCEDiceLoss
from custom.losses.float32 import Float32Loss
from custom.losses.focal_tversky import FocalTverskyLoss
from custom.losses.log_cosh_dice import LogCoshDiceLoss
from custom.losses.lovasz import LovaszHingeLoss

LOSSES = {
    "bce_dice": BCEDiceLoss,
    "tversky": lambda: Float32Loss(loss=TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, batch=True)),
    "focal_tversky": FocalTverskyLoss,
    "dice_focal": lambda: Float32Loss(loss=DiceFocalLoss(sigmoid=True, batch=True)),
    "log_cosh_dice": LogCoshDiceLoss,
    "lovasz": LovaszHingeLoss,
}


@pytest.fixture(params=list(LOSSES), ids=list(LOSSES))
def loss(request):
    return LOSSES[request.param]()


def slices(batch=3, side=12, seed=0):
    """Logits and two nested regions; the last slice of the batch is empty."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, 2, side, side, generator=generator)
    target = torch.zeros(batch, 2, side, side)
    target[:-1, 0, 2:9, 2:9] = 1
    target[0, 1, 4:6, 4:7] = 1
    return logits, target


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_give_the_float32_loss(loss, dtype):
    logits, target = slices()
    logits = logits.to(dtype)
    value, gradient = value_and_gradient(loss, logits, target.to(torch.uint8))
    expected, expected_gradient = value_and_gradient(loss, logits.float(), target)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_full_size_slice_does_not_overflow_float16(loss, sign):
    logits = torch.full((1, 2, 512, 512), 8.0 * sign, dtype=torch.float16)
    value, gradient = value_and_gradient(loss, logits, torch.ones(1, 2, 512, 512, dtype=torch.uint8))
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    assert value < 0.01 if sign > 0 else value > 0.4


def test_monai_alone_does_overflow():
    """The reason for the wrapper: should this ever pass in MONAI, the wrapper can go."""
    logits = torch.full((1, 1, 512, 512), 8.0, dtype=torch.float16)
    target = torch.ones(1, 1, 512, 512, dtype=torch.float16)
    dice = DiceLoss(sigmoid=True)
    assert not dice(logits, target) < 0.01
    assert Float32Loss(loss=dice)(logits, target) < 0.01


def test_autocast_changes_nothing(loss):
    logits, target = slices()
    weight = torch.eye(2)[..., None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.nn.functional.conv2d(logits, weight)
        assert half.dtype == torch.bfloat16
        inside = loss(half, target)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(half, target))


@pytest.mark.parametrize("fill", [-20.0, -1.0, 0.0, 1.0, 20.0])
def test_empty_batch_is_finite_and_pushes_no_logit_up(loss, fill):
    logits = torch.full((2, 2, 8, 8), fill)
    value, gradient = value_and_gradient(loss, logits, torch.zeros(2, 2, 8, 8))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert (gradient >= 0).all()


@pytest.mark.parametrize("fill", [-20.0, 0.0, 20.0])
def test_full_region_is_finite_and_pushes_no_logit_down(loss, fill):
    value, gradient = value_and_gradient(loss, torch.full((2, 2, 8, 8), fill), torch.ones(2, 2, 8, 8))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert (gradient <= 0).all()


def test_right_is_cheaper_than_empty_and_than_wrong(loss):
    _, target = slices()
    right, empty, wrong = (loss(logits, target) for logits in (40 * target - 20, -20 + 0 * target, 20 - 40 * target))
    assert right < 1e-3
    assert right < empty and right < wrong


def test_gradient_descent_finds_the_regions(loss):
    _, target = slices()
    logits = torch.zeros_like(target, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    found = logits > 0
    overlap = 2 * (found & (target > 0)).sum() / (found.sum() + target.sum())
    assert overlap > 0.9


def test_deep_supervision_takes_lists(loss):
    logits, target = slices(side=16)
    coarse = logits[..., ::2, ::2]
    value = DeepSupervisionLoss(loss)([logits, coarse], target)
    expected = loss(logits, target) + 0.5 * loss(coarse, target[..., 1::2, 1::2])
    assert value == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "dice_focal"])
def test_gradient_is_the_derivative(name):
    """In float64; MONAI's focal loss casts to float32 itself, too coarse for finite differences."""
    loss = LOSSES[name]()
    logits, target = slices(batch=2, side=4, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, target.double()), logits.double().requires_grad_())


def test_order_of_the_batch_does_not_matter(loss):
    logits, target = slices()
    assert loss(logits.flip(0), target.flip(0)) == pytest.approx(float(loss(logits, target)), rel=1e-5)


def test_volumes_are_taken_as_well(loss):
    logits, target = slices()
    value = loss(logits.unsqueeze(2).expand(-1, -1, 2, -1, -1), target.unsqueeze(2).expand(-1, -1, 2, -1, -1))
    assert value == pytest.approx(float(loss(logits, target)), abs=1e-4)


def test_other_shapes_are_refused(loss):
    logits, target = slices()
    with pytest.raises((ValueError, AssertionError), match=r"size|shape|channels"):
        loss(logits, target[:, :1])


def test_a_metatensor_leaves_no_trace(loss):
    logits, target = slices()
    value = loss(MetaTensor(logits), MetaTensor(target))
    assert type(value) is torch.Tensor
    assert torch.equal(value, loss(logits, target))


def test_the_wrapper_computes_what_it_wraps():
    logits, target = slices()
    inner = TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7)
    assert torch.equal(Float32Loss(loss=inner)(logits, target), inner(logits, target))

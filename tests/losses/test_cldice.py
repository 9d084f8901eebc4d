import pytest
import torch
from monai.losses import SoftclDiceLoss as MonaiSoftclDiceLoss

from custom.losses.cldice import SoftClDiceLoss


def batch(seed: int = 0, shape=(2, 2, 8, 10, 12)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator)
    label = torch.zeros(shape[0], 1, *shape[2:])
    label[:, :, 3:6] = 1
    label[1, :, :, 4] = 0
    return logits, label


@pytest.mark.parametrize("iterations", [0, 1, 5, 10])
def test_equals_monai_on_the_surface_channel(iterations):
    logits, label = batch()
    ours = logits.clone().requires_grad_()
    theirs = logits.clone().requires_grad_()
    value = SoftClDiceLoss(iterations=iterations)(ours, label)
    expected = MonaiSoftclDiceLoss(iter_=iterations)(theirs.softmax(1)[:, 1:], label)
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    value.backward()
    expected.backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)
    assert (ours.grad != 0).float().mean() > 0.5


def test_ignored_voxels_are_background_in_both():
    """The published loss on prediction and label with the ignored voxels cleared, as the competition clears them."""
    logits, label = batch()
    label[:, :, :, :, 8:] = 2
    valid = label != 2
    expected = MonaiSoftclDiceLoss(iter_=3)(logits.softmax(1)[:, 1:] * valid, label * valid)
    assert SoftClDiceLoss()(logits, label).item() == pytest.approx(expected.item(), abs=1e-6)


def test_ignored_voxels_change_nothing_and_get_no_gradient():
    logits, label = batch()
    logits.requires_grad_()
    label[:, :, :, :, 8:] = 2
    loss = SoftClDiceLoss()
    loss(logits, label).backward()
    ignored = (label == 2).expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert logits.grad.abs().sum() > 0
    other = torch.where(ignored, -logits, logits)
    assert torch.equal(loss(other, label), loss(logits, label))


def test_everything_ignored_is_finite():
    logits, label = batch()
    logits.requires_grad_()
    value = SoftClDiceLoss()(logits, torch.full_like(label, 2))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-4)
    assert (logits.grad == 0).all()


def test_a_gap_costs_more_than_the_same_voxels_at_the_rim():
    """A cut through a sheet breaks its skeleton; the same number of voxels off its faces does not."""
    label = torch.zeros(1, 1, 16, 16, 16)
    label[:, :, 6:9] = 1
    cut, shaved = label.clone(), label.clone()
    cut[:, :, :, 8] = 0
    shaved[:, :, 6, :3] = 0
    assert cut.sum() == shaved.sum()
    of_cut, of_shaved = (SoftClDiceLoss()(torch.cat([1 - p, p], 1) * 40, label) for p in (cut, shaved))
    assert of_cut > of_shaved


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype):
    logits, label = batch()
    half = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SoftClDiceLoss()(half, label.to(dtype))
    value.backward()
    assert torch.equal(value, SoftClDiceLoss()(half.detach().float(), label))
    assert half.grad.isfinite().all()
    assert half.grad.abs().sum() > 0

import math

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss, DiceCELoss

from custom.losses.dice_ce import MaskedDiceCELoss


def batch(ignored: float = 0.3, shape=(2, 2, 6, 8, 8), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    label = torch.randint(0, 2, (shape[0], 1, *shape[2:]), generator=generator).float()
    label[torch.rand(label.shape, generator=generator) < ignored] = 2
    return logits, label


def by_definition(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Dice of the surface per patch and mean cross-entropy, over a list of the valid voxels alone."""
    dice, ce = [], []
    for item, truth in zip(logits, label[:, 0], strict=True):
        valid = truth != 2
        probability = item.softmax(0)[:, valid]
        truth = truth[valid]
        dice.append(1 - (2 * (probability[1] * truth).sum() + 1e-5) / (probability[1].sum() + truth.sum() + 1e-5))
        ce.append(-probability.log().gather(0, truth.long()[None])[0])
    return torch.stack(dice).mean() + torch.cat(ce).mean()


def test_hand_computed():
    """Four voxels: p = 1/2, 1/2, 3/4 and one ignored, against the labels 1, 0, 1."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, math.log(3), -9.0]]).reshape(1, 2, 1, 1, 4)
    label = torch.tensor([1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 1, 4)
    dice = 1 - 2 * (0.5 + 0.75) / (0.5 + 0.5 + 0.75 + 2)
    ce = -(2 * math.log(0.5) + math.log(0.75)) / 3
    assert MaskedDiceCELoss(lambda_ce=0)(logits, label).item() == pytest.approx(dice, abs=1e-5)
    assert MaskedDiceCELoss(lambda_dice=0)(logits, label).item() == pytest.approx(ce, abs=1e-6)
    assert MaskedDiceCELoss()(logits, label).item() == pytest.approx(dice + ce, abs=1e-5)


def test_equals_the_definition_on_the_valid_voxels():
    logits, label = batch()
    assert torch.allclose(MaskedDiceCELoss()(logits, label), by_definition(logits, label), atol=1e-6)


def test_equals_monai_where_nothing_is_ignored():
    logits, label = batch(ignored=0)
    monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    assert torch.allclose(MaskedDiceCELoss()(logits, label), monai(logits, label), atol=1e-6)


def test_ignored_voxels_change_nothing_and_get_no_gradient():
    logits, label = batch()
    loss = MaskedDiceCELoss()
    loss(logits, label).backward()
    ignored = (label == 2).expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()
    other = torch.where(ignored, 100 * torch.rand_like(logits), logits)
    assert torch.equal(loss(other, label), loss(logits, label))


def test_everything_ignored_is_zero():
    logits, label = batch(ignored=1.1)
    value = MaskedDiceCELoss()(logits, label)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_one_patch_ignored_leaves_the_other():
    logits, label = batch()
    label[1] = 2
    ce = MaskedDiceCELoss(lambda_dice=0)
    assert torch.allclose(ce(logits, label), ce(logits[:1], label[:1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_summed_in_float32(dtype):
    """100 000 voxels overflow a float16 sum."""
    logits, label = batch(shape=(1, 2, 20, 70, 72))
    logits = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MaskedDiceCELoss()(logits, label.to(dtype))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.allclose(value, by_definition(logits.float(), label), atol=1e-5)
    assert logits.grad.isfinite().all()


def test_deep_supervision_resamples_labels_without_inventing_any():
    logits, label = batch(shape=(2, 2, 8, 8, 8))
    coarse = torch.randn(2, 2, 4, 4, 4)
    value = DeepSupervisionLoss(MaskedDiceCELoss())([logits, coarse], label)
    nearest = F.interpolate(label, size=(4, 4, 4), mode="nearest-exact")
    assert set(nearest.unique().tolist()) == {0, 1, 2}
    expected = by_definition(logits, label) + 0.5 * by_definition(coarse, nearest)
    assert torch.allclose(value, expected, atol=1e-6)


def test_reads_the_label_from_a_full_target():
    logits, label = batch()
    full = torch.cat([label, torch.rand_like(label), torch.randn_like(label)], dim=1)
    assert torch.equal(MaskedDiceCELoss()(logits, full), MaskedDiceCELoss()(logits, label))


def test_a_metatensor_gives_a_plain_tensor():
    logits, label = batch()
    value = MaskedDiceCELoss()(logits, MetaTensor(label))
    assert type(value) is torch.Tensor
    assert torch.equal(value, MaskedDiceCELoss()(logits, label))


@pytest.mark.parametrize("shape", [(2, 1, 6, 8, 7), (1, 1, 6, 8, 8)])
def test_refuses_a_target_of_another_size(shape):
    logits, _ = batch()
    with pytest.raises(ValueError, match="equal size"):
        MaskedDiceCELoss()(logits, torch.zeros(shape))


def test_refuses_another_number_of_classes():
    with pytest.raises(ValueError, match=r"\(B, 2, ...\)"):
        MaskedDiceCELoss()(torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4))

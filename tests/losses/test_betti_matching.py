import math
import warnings

import pytest
import torch

from custom.losses.betti_matching import BettiMatchingLoss, betti_matching_error
from custom.ops import betti

needs_extension = pytest.mark.skipif(not betti.betti_available(), reason="the extension of topolosses is not installed")


def logits_of(probability: torch.Tensor) -> torch.Tensor:
    """Logits ``(1, 2, D, H, W)`` of a volume of probabilities."""
    score = torch.logit(probability, eps=1e-12)[None, None]
    return torch.cat([torch.zeros_like(score), score], dim=1).requires_grad_()


def sheet() -> torch.Tensor:
    volume = torch.zeros(7, 6, 6, dtype=torch.float64)
    volume[2] = 1
    return volume


def two_sheets() -> torch.Tensor:
    volume = sheet()
    volume[5] = 1
    return volume


def pinhole() -> torch.Tensor:
    volume = sheet()
    volume[2, 3, 3] = 0.25
    return volume


def speck() -> torch.Tensor:
    volume = sheet()
    volume[5, 3, 3] = 0.5
    return volume


def bubble() -> torch.Tensor:
    volume = sheet()
    volume[1:6, 1:6, 1:6] = 1
    volume[3, 3, 3] = 0.5
    return volume


@needs_extension
@pytest.mark.parametrize(
    ("prediction", "label", "error", "persistence"),
    [
        (sheet(), sheet(), 0, 0),
        (two_sheets(), two_sheets(), 0, 2 * 1 / 2),
        (pinhole(), sheet(), 0.75**2 / 2, 0.75**2 / 2),  # a tunnel from 0 to 1 - 0.25
        (speck(), sheet(), 0.5**2 / 2, 0.5**2 / 2),  # a component from 1 - 0.5 until the background joins it, 1
        (bubble(), sheet(), 0.5**2 / 2, 0.5**2 / 2),  # a cavity from 0 to 1 - 0.5
        (0.75 * two_sheets(), two_sheets(), 0.25**2, 0.75**2 / 2 + 1 / 2),  # matched, born 0.25 too late
        (sheet(), two_sheets(), 1 / 2, 1 / 2),  # a sheet is missed: one unmatched feature of the label
    ],
)
def test_hand_computed(prediction, label, error, persistence):
    value = BettiMatchingLoss(crop_size=48)(logits_of(prediction), label[None, None])
    assert value.item() == pytest.approx(error / (1 + persistence), abs=1e-6)


@needs_extension
def test_gradient_closes_a_pinhole():
    logits = logits_of(pinhole())
    BettiMatchingLoss()(logits, sheet()[None, None]).backward()
    gradient = logits.grad[0, 1]
    assert gradient[2, 3, 3] == pytest.approx(-0.75 * 0.25 * 0.75 / (1 + 0.75**2 / 2))  # (b - d) dp/dscore
    gradient[2, 3, 3] = 0
    assert gradient.abs().max() < 1e-6  # the ring around it is saturated


@needs_extension
def test_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(4, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    label = (torch.rand(4, 5, 5, generator=generator) < 0.4).double()
    assert torch.autograd.gradcheck(lambda volume: betti_matching_error(volume, label), (prediction,))


@needs_extension
def test_ignored_voxels_are_background_and_get_no_gradient():
    label = sheet()
    label[4:] = 2
    prediction = speck()
    prediction[5:] = torch.rand(2, 6, 6)
    logits = logits_of(prediction)
    value = BettiMatchingLoss()(logits, label[None, None])
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert (logits.grad[:, :, 4:] == 0).all()


@needs_extension
def test_everything_ignored_is_zero():
    logits = logits_of(torch.rand(6, 6, 6))
    value = BettiMatchingLoss()(logits, torch.full((1, 1, 6, 6, 6), 2.0))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@needs_extension
def test_crops_differ_from_call_to_call_and_go_on_after_a_resume():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 12, 12, 12, generator=generator)
    label = torch.randint(0, 2, (2, 1, 12, 12, 12), generator=generator)
    loss = BettiMatchingLoss(crop_size=(6, 7, 8), seed=3)
    values = [loss(logits, label).item() for _ in range(4)]
    assert len(set(values)) == 4
    again = BettiMatchingLoss(crop_size=[6, 7, 8], seed=3)
    assert [again(logits, label).item() for _ in range(2)] == values[:2]
    resumed = BettiMatchingLoss(crop_size=(6, 7, 8), seed=3)
    resumed.load_state_dict(again.state_dict())
    assert [resumed(logits, label).item() for _ in range(2)] == values[2:]


@needs_extension
def test_gradient_stays_inside_one_crop_of_one_patch():
    logits = torch.randn(3, 2, 12, 12, 12, requires_grad=True)
    BettiMatchingLoss(crop_size=5)(logits, torch.zeros(3, 1, 12, 12, 12)).backward()
    touched = logits.grad.abs().sum(1).nonzero()
    extent = touched.amax(0) - touched.amin(0) + 1
    assert extent[0] == 1
    assert (extent[1:] <= 5).all()


@needs_extension
def test_crop_prefers_what_is_annotated():
    """Of four positions at least one nearly always meets the valid half; the loss of nothing would be 0."""
    label = torch.full((1, 1, 8, 8, 40), 2)
    label[..., 20:] = 0
    logits = torch.randn(1, 2, 8, 8, 40)
    loss = BettiMatchingLoss(crop_size=8)
    assert sum(loss(logits, label).item() > 0 for _ in range(20)) >= 17


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs(dtype):
    logits = logits_of(pinhole()).detach().to(dtype).requires_grad_()
    value = BettiMatchingLoss()(logits, sheet()[None, None])
    value.backward()
    assert value.item() == pytest.approx(0.75**2 / 2 / (1 + 0.75**2 / 2), abs=1e-2)
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@needs_extension
def test_a_network_that_diverged_gives_nan_and_does_not_hang():
    assert math.isnan(BettiMatchingLoss()(torch.full((1, 2, 5, 5, 5), math.nan), torch.zeros(1, 1, 5, 5, 5)))


def test_without_the_extension_it_warns_and_says_so(monkeypatch):
    monkeypatch.setattr(betti, "_extension_file", lambda: None)
    with pytest.warns(UserWarning, match=r"left out.*pip install --no-deps"):
        loss = BettiMatchingLoss()
    assert not loss.available
    with pytest.raises(betti.BettiUnavailableError):
        loss(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4))


@needs_extension
def test_with_the_extension_it_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BettiMatchingLoss().available

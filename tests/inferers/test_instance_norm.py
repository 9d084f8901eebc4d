"""Instance normalisation by group norm: the same numbers, in the input's own order."""

import pytest
import torch
from torch import nn

from custom.inferers.common import autocast_to
from custom.inferers.instance_norm import InstanceNormAsGroupNorm

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture
def volumes():
    return torch.randn(2, 5, 7, 8, 9, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_the_definition(volumes, affine, eps):
    norm = nn.InstanceNorm3d(5, eps=eps, affine=affine)
    scale, shift = torch.ones(5), torch.zeros(5)
    if affine:
        scale, shift = torch.linspace(0.5, 2, 5), torch.linspace(-1, 1, 5)
        norm.load_state_dict({"weight": scale, "bias": shift})
    variance, mean = torch.var_mean(volumes.double(), dim=(2, 3, 4), keepdim=True, correction=0)
    by_hand = (volumes - mean) / (variance + eps).sqrt() * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)
    for order in (torch.contiguous_format, torch.channels_last_3d):
        with InstanceNormAsGroupNorm():
            found = norm(volumes.contiguous(memory_format=order))
        torch.testing.assert_close(found.double(), by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.InstanceNorm2d(6), (1, 6, 16, 16)), (nn.InstanceNorm3d(6), (2, 6, 8, 8, 8))]
)
def test_channels_stay_last(norm, shape):
    order = LAST[len(shape)]
    with autocast_to("bfloat16", torch.device("cpu")):
        found = norm(torch.randn(shape).to(memory_format=order))
    assert found.is_contiguous(memory_format=order) and not found.is_contiguous()


def test_statistics_of_the_training_are_left_alone(volumes):
    norm = nn.InstanceNorm3d(5, track_running_stats=True)
    norm(volumes)
    norm.eval()
    expected = norm(volumes)
    with InstanceNormAsGroupNorm():
        assert torch.equal(norm(volumes), expected)


def test_gradients_and_other_operations_are_torchs_own(volumes):
    volumes.requires_grad_()
    network = nn.Sequential(nn.Conv3d(5, 4, 3), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1))
    network(volumes).square().sum().backward()
    expected, volumes.grad = volumes.grad, None
    with InstanceNormAsGroupNorm():
        network(volumes).square().sum().backward()
    torch.testing.assert_close(volumes.grad, expected, atol=1e-5, rtol=1e-4)

import pytest
import torch
from monai.networks.nets import FlexibleUNet
from torch import nn

from custom.networks import set_batch_norm_momentum


def test_running_statistics_follow_as_fast_as_told():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.BatchNorm2d(1)))
    assert set_batch_norm_momentum(network=network, momentum=0.25) is network
    network[0](torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2))
    assert network[0].running_mean.item() == pytest.approx(0.25 * 2)
    # Variance 2 of two values, without bias, beside the 1 that it starts with.
    assert network[0].running_var.item() == pytest.approx(0.75 * 1 + 0.25 * 2)
    assert network[1][0].momentum == 0.25


def test_state_and_other_layers_stay():
    network = FlexibleUNet(in_channels=1, out_channels=2, backbone="efficientnet-b0")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = set_batch_norm_momentum(network=network).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("momentum", [0, 1.5])
def test_a_wrong_momentum_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum is above 0"):
        set_batch_norm_momentum(network=nn.BatchNorm2d(1), momentum=momentum)

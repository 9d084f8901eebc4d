"""SegResNetDS on blocks: outputs are where their voxels are, and exports give the same."""

import pytest
import torch
from torch import nn

from custom.errors import DataError
from custom.networks import SpaceToDepthSegResNetDS

SHAPE = (2, 1, 16, 32, 24)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SpaceToDepthSegResNetDS(init_filters=4, blocks_down=(1, 1, 1), act=("relu", {"inplace": False}), dsdepth=2)


@pytest.fixture
def volume():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_channels_are_the_voxels_of_a_block(network, volume):
    expected = torch.stack([volume[:, 0, d::2, h::2, w::2] for d in (0, 1) for h in (0, 1) for w in (0, 1)], 1)
    assert torch.equal(network.preprocess(volume), expected)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_voxel_is_predicted_from_the_blocks_around_it(factor):
    """The heads alone, on one block that is not 0: it reaches the blocks on every side of it."""
    head = SpaceToDepthSegResNetDS(init_filters=8 // factor, blocks_down=(1, 1), factor=factor).up_layers[-1]["head"]
    blocks = torch.zeros(1, 8, 5, 5, 5)
    nothing = head(blocks)
    blocks[:, :, 2, 2, 2] = 1
    reached = (head(blocks) - nothing)[0].abs().amax(0) > 1e-7
    expected = torch.zeros(5 * factor, 5 * factor, 5 * factor, dtype=torch.bool)
    inside = slice(factor, 4 * factor)
    expected[inside, inside, inside] = True
    assert torch.equal(reached, expected)


def test_shapes(network, volume):
    assert network.eval()(volume).shape == (2, 2, 16, 32, 24)
    assert [tuple(output.shape[2:]) for output in network.train()(volume)] == [(16, 32, 24), (8, 16, 12)]


def test_no_layer_works_at_full_resolution(network, volume):
    sizes = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[2:])))
    network(volume)
    assert max(sizes) == (8, 16, 12)


def test_every_weight_gets_a_gradient(network, volume):
    outputs = network.train()(volume)
    sum(output.square().mean() for output in outputs).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_exports(network, volume):
    expected = network.eval()(volume)
    torch.testing.assert_close(torch.jit.script(network)(volume), expected)
    torch.testing.assert_close(torch.export.export(network, (volume,)).module()(volume), expected)


def test_a_size_that_is_not_divisible_is_refused(network):
    with pytest.raises(DataError, match=r"patches of \[8, 8, 8\], expected a larger size along one of the axes"):
        network.train()(torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(DataError, match=r"slices of \[16, 32, 20\], expected multiples of \[8, 8, 8\]"):
        network(torch.zeros(1, 1, 16, 32, 20))

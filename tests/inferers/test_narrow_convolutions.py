"""Convolutions in bfloat16 whose output is one column wide, which oneDNN reads from memory that was never written."""

import pytest
import torch
from torch import nn

from custom.inferers import AutocastInferer
from custom.inferers.common import autocast_to

LAYERS = [
    (nn.Conv2d(5, 64, 3, stride=2, padding=1), (32, 2)),
    (nn.Conv2d(16, 16, 7, stride=2, padding=3), (32, 1)),
    (nn.Conv2d(256, 512, 3, stride=2, padding=1), (4, 2)),
    (nn.Conv3d(16, 32, 3, stride=2, padding=1), (4, 8, 2)),
    (nn.Conv3d(16, 32, 3, stride=(1, 2, 2), padding=1), (4, 8, 1)),
]


def fill_free_memory():
    """Leave NaN in memory that is allocated next."""
    for size in (2**10, 2**12, 2**14, 2**16, 2**18):
        del [torch.full((size,), torch.nan, dtype=torch.bfloat16) for _ in range(6)][:]


def by_inference(layer, image):
    with autocast_to("bfloat16", torch.device("cpu")):
        return layer(image)


def by_training(layer, image):
    return AutocastInferer(precision="bfloat16")(image, layer)


@pytest.mark.parametrize("run", [by_inference, by_training])
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@torch.no_grad()
def test_the_output_is_that_of_float32_whatever_was_in_memory(run, layer, shape):
    image = torch.rand(2, layer.in_channels, *shape, generator=torch.Generator().manual_seed(0))
    expected = layer(image)
    for _ in range(8):
        fill_free_memory()
        torch.testing.assert_close(run(layer, image).float(), expected, atol=0.02, rtol=0.02)


def test_the_output_keeps_the_type_of_autocast_and_has_gradients():
    layer, shape = LAYERS[0]
    image = torch.rand(1, layer.in_channels, *shape)
    with autocast_to("bfloat16", torch.device("cpu")):
        found = layer(image)
    found.float().square().sum().backward()
    assert found.dtype == torch.bfloat16 and layer.weight.grad.abs().sum() > 0


def test_float32_is_left_alone():
    layer, shape = LAYERS[0]
    image = torch.rand(1, layer.in_channels, *shape)
    assert torch.equal(AutocastInferer(precision="float32")(image, layer), layer(image))

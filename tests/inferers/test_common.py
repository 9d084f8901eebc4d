"""What both inferers do with a prediction that does not fit into 16 bits."""

import pytest
import torch

from custom.errors import DataError
from custom.inferers import SliceVolumeInferer, SlidingWindow

INFERERS = {
    "slices": lambda **options: SliceVolumeInferer(activation=None, **options),
    "windows": lambda **options: SlidingWindow(roi_size=(4, 8, 8), overlap=0, **options),
}


class Wide(torch.nn.Module):
    """Its intermediate values, 70 000 times the input, are too large for float16."""

    def __init__(self, dims):
        super().__init__()
        self.up = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(1, 1, 1, bias=False)
        torch.nn.init.constant_(self.up.weight, 7e4)

    def forward(self, x):
        return self.up(x).float() / 7e4


@pytest.mark.parametrize("name", INFERERS)
def test_it_is_made_again_in_float32(name, caplog):
    volume = torch.ones(1, 1, 4, 8, 8)
    inferer = INFERERS[name](precision="float16")
    found = inferer(volume, Wide(2 if name == "slices" else 3))
    torch.testing.assert_close(found, volume)
    assert "is not finite: it is made again in float32" in caplog.text
    assert inferer.precision == "float16"  # the next volume is tried as configured


@pytest.mark.parametrize("name", INFERERS)
def test_what_is_not_finite_in_float32_either_is_an_error(name):
    with pytest.raises(DataError, match="values that are not finite, expected finite ones"):
        INFERERS[name](precision="float16")(torch.ones(1, 1, 4, 8, 8), lambda x: x * torch.nan)

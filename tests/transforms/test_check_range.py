"""Images whose grey values are others than configured are refused by name."""

import pytest
import torch

from custom.errors import DataError
from custom.transforms import CheckRanged

CHECK = CheckRanged("image", minimum=0, maximum=255)


@pytest.mark.parametrize("values", [[0, 255], [3, 4], [0.0, 254.5]])
def test_values_within_the_range_pass(values):
    item = {"image": torch.tensor(values), "id": "a"}
    assert CHECK(item) == item


@pytest.mark.parametrize(
    ("values", "found"), [([0, 65535], "grey values from 0 to 65535"), ([-1.0, 1.0], "grey values from -1 to 1")]
)
def test_others_are_refused(values, found):
    with pytest.raises(DataError, match=f"a: found {found}, expected 0 to 255; others with --grey_values"):
        CHECK({"image": torch.tensor(values), "id": "a"})

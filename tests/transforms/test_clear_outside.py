"""Masks are cleared outside of the scan, and only there."""

import numpy as np
import pytest
import torch

from custom.transforms import ClearOutsided


@pytest.fixture
def image():
    image = np.full((1, 12, 30, 30), -0.5, np.float32)
    image[..., 20:] = -1
    image[0, 5, 3, 3] = -1  # a dark voxel of the CT
    return image


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_only_what_lies_outside_is_cleared(image, kind):
    mask = np.zeros(image.shape, np.uint8)
    mask[:, 4:7] = 1
    expected = mask.copy()
    expected[..., 20:] = 0
    given = {"pred": kind(mask.copy()), "image": kind(image)}
    found = ClearOutsided("pred")(given)["pred"]
    assert type(found) is type(given["pred"]) and found.dtype == given["pred"].dtype
    assert np.array_equal(np.asarray(found), expected)
    assert np.array_equal(np.asarray(given["pred"]), mask)  # nothing is changed in place


def test_another_shape_is_refused(image):
    with pytest.raises(ValueError, match="one shape"):
        ClearOutsided("pred")({"pred": np.zeros((1, 11, 30, 30), np.uint8), "image": image})

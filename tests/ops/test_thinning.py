import numpy as np
import pytest
import torch
from scipy import ndimage

from custom.ops import thinning
from custom.ops.skeleton import medial_surface
from custom.ops.thinning import medial_surfaces


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.5, 3.0])
@pytest.mark.parametrize("shape", [(9, 14, 17), (12, 6, 10)])
def test_equals_scikit_image(sigma, shape):
    noise = np.random.default_rng(0).random((2, *shape))
    masks = ndimage.gaussian_filter(noise, (0, sigma, sigma, sigma)) > 0.5
    expected = np.stack([medial_surface(mask) for mask in masks])
    result = medial_surfaces(torch.from_numpy(masks))
    assert result.dtype == torch.uint8
    assert np.array_equal(result.numpy(), expected)


def test_masks_up_to_the_faces_and_empty_ones():
    masks = np.zeros((3, 5, 6, 7), bool)
    masks[0] = True
    masks[1, 2] = True
    expected = np.stack([medial_surface(mask) for mask in masks])
    assert np.array_equal(medial_surfaces(torch.from_numpy(masks)).numpy(), expected)


def test_wider_regions_keep_a_core(monkeypatch):
    """With 4 iterations a slice of a block of 20 keeps what four layers less have left; thinner parts are as before."""
    monkeypatch.setattr(thinning, "ITERATIONS", 4)
    mask = np.zeros((1, 30, 34, 30), bool)
    mask[0, 5:25, 5:25, 5:25] = True
    mask[0, :, 29:31, 14:16] = True
    result, expected = medial_surfaces(torch.from_numpy(mask)).numpy()[0], medial_surface(mask[0])
    assert (result >= expected).all()
    assert result[9:21, 9:21, 9:21].all()
    assert np.array_equal(result[:, 27:], expected[:, 27:])

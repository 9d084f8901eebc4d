import numpy as np
import pytest
import torch
from scipy import ndimage

from custom.ops.distance import signed_distances


def brute_force(mask: np.ndarray, limit: float) -> np.ndarray:
    """Distance to the nearest voxel of the other kind, less half a voxel, from every pair."""
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    result = np.empty(mask.shape)
    for index in np.ndindex(mask.shape):
        others = outside if mask[index] else inside
        nearest = np.sqrt(((others - index) ** 2).sum(1)).min() if len(others) else np.inf
        result[index] = min(nearest - 0.5, limit) * (-1 if mask[index] else 1)
    return result


@pytest.mark.parametrize("threshold", [0.45, 0.5, 0.55])
@pytest.mark.parametrize("limit", [2.0, 3.5, 100.0])
def test_equals_brute_force(threshold, limit):
    masks = ndimage.gaussian_filter(np.random.default_rng(0).random((2, 6, 9, 8)), (0, 1.2, 1.2, 1.2)) > threshold
    result = signed_distances(torch.from_numpy(masks), limit)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), [brute_force(mask, limit) for mask in masks], rtol=1e-6)


def test_a_sheet_of_two_voxels():
    mask = torch.zeros((1, 8, 3, 3), dtype=torch.bool)
    mask[:, 3:5] = True
    assert signed_distances(mask, 2.0)[0, :, 1, 1].tolist() == [2.0, 1.5, 0.5, -0.5, -0.5, 0.5, 1.5, 2.0]


@pytest.mark.parametrize(("value", "expected"), [(False, 7.0), (True, -7.0)])
def test_without_a_boundary_everything_is_at_the_limit(value, expected):
    assert (signed_distances(torch.full((2, 3, 4, 5), value), 7.0) == expected).all()


def test_a_view_with_strides():
    mask = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(1).random((1, 6, 9, 8)), 1.2) > 0.5)
    assert torch.equal(signed_distances(mask.movedim(3, 1), 5.0).movedim(1, 3), signed_distances(mask, 5.0))


@pytest.mark.parametrize("threshold", [0.45, 0.5, 0.55])
@pytest.mark.parametrize("limit", [2.0, 3.5, 10.0, 100.0])
def test_equals_edt(threshold, limit):
    edt = pytest.importorskip("edt").edt
    noise = np.random.default_rng(0).random((3, 7, 12, 9))
    masks = ndimage.gaussian_filter(noise, (0, 1.2, 1.2, 1.2)) > threshold
    masks[2] = threshold < 0.5  # no boundary
    result = signed_distances(torch.from_numpy(masks), limit)
    distances = np.minimum([edt(mask.astype(np.uint8) + 1) for mask in masks], 2 * limit) - np.float32(0.5)
    assert np.array_equal(result.numpy(), np.where(masks, -1, 1) * distances.clip(max=limit))


def test_refuses_a_limit_whose_square_does_not_fit():
    with pytest.raises(ValueError, match="up to 100"):
        signed_distances(torch.zeros(1, 2, 2, 2, dtype=torch.bool), 101.0)

"""nnU-Net's rules of resampling, against scipy's splines."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from custom.ops.nnunet_resampling import new_shape, resample, separate_axis


@pytest.mark.parametrize(
    ("current", "new", "axis"),
    [
        ((5, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (1, 1, 4), 2),
        ((3, 1, 1), (2, 1, 1), None),  # not above 3
        ((0.2, 1, 1), (1, 1, 1), None),  # two axes are coarse
        ((5, 1, 1), (1, 1, 5), 0),  # the current spacing comes first
    ],
)
def test_slices_are_resampled_one_by_one_across_a_single_coarse_axis(current, new, axis):
    assert separate_axis(current, new) == axis


def test_it_can_be_forced():
    assert separate_axis((2, 1, 1), (1, 1, 1), force=True) == 0
    assert separate_axis((5, 1, 1), (1, 1, 1), force=False) is None


def test_new_shape_is_rounded_to_even():
    assert new_shape((10, 5, 3), (1, 1, 2), (2, 2, 1)) == (5, 2, 6)


def positions(old, new):
    return (np.arange(new) + 0.5) * old / new - 0.5


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_values_are_those_of_splines(order, axis):
    volume, shape = np.random.default_rng(0).normal(size=(7, 9, 8)).astype(np.float32), (5, 12, 11)
    places = [positions(old, new) for old, new in zip(volume.shape, shape, strict=True)]
    if axis is None:
        expected = map_coordinates(volume, np.meshgrid(*places, indexing="ij"), order=order, mode="nearest")
    else:
        nearest = np.floor(places.pop(axis) + 0.5).astype(int)
        slices = np.moveaxis(volume, axis, 0)
        grid = np.meshgrid(*places, indexing="ij")
        slices = np.stack([map_coordinates(each, grid, order=order, mode="nearest") for each in slices])
        expected = np.moveaxis(slices[nearest], 0, axis)
    found = resample(volume, shape, axis=axis, order=order)
    assert found.dtype == np.float32
    inner = (slice(1, -1),) * 3 if order == 3 else ...  # scikit-image clips overshoots and extends borders differently
    found, expected = (np.clip(each, volume.min(), volume.max())[inner] for each in (found, expected))
    np.testing.assert_allclose(found, expected, atol=0.02 if order == 3 else 1e-6)


def test_equal_shapes_are_left_as_they_are():
    volume = np.zeros((3, 4, 5), np.float32)
    assert resample(volume, (3, 4, 5), axis=0, order=3) is volume

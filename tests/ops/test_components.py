import sys

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number

from custom.ops.components import (
    betti_numbers,
    component_sizes,
    fill_cavities,
    hysteresis,
    label_components,
    remove_small,
)

STRUCTURES = {6: ndimage.generate_binary_structure(3, 1), 26: np.ones((3, 3, 3), bool)}


def random_masks(count=30, shape=(7, 6, 8)):
    generator = np.random.default_rng(0)
    for index in range(count):
        yield generator.random(shape) < (0.1, 0.3, 0.5, 0.7, 0.9)[index % 5]


@pytest.mark.parametrize("connectivity", [6, 26])
def test_components_are_those_of_scipy(connectivity):
    for mask in random_masks():
        labels, count = label_components(mask, connectivity)
        expected, expected_count = ndimage.label(mask, STRUCTURES[connectivity])
        assert count == expected_count
        pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == count + (not mask.all())  # one to one
        assert sorted(component_sizes(labels, count)[1:]) == sorted(np.bincount(expected.ravel())[1:])


def test_small_components_go():
    mask = np.zeros((5, 5, 5), bool)
    mask[0, 0, :3] = True  # 3 voxels
    mask[2, 2, 2] = mask[3, 3, 3] = True  # joined by a corner: 2 voxels, or twice 1
    assert remove_small(mask, 2).sum() == 5
    assert remove_small(mask, 3).sum() == 3
    assert remove_small(mask, 2, connectivity=6).sum() == 3
    assert not remove_small(mask, 4).any()


@pytest.mark.parametrize("least", [0, 1])
def test_no_component_is_smaller_than_a_voxel(least, monkeypatch):
    monkeypatch.setitem(sys.modules, "cc3d", None)  # a step that is left out must not search for components
    mask = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 3
    assert (remove_small(mask, least) == (mask != 0)).all()


def test_hysteresis_keeps_what_reaches_the_upper_threshold():
    values = np.zeros((1, 1, 9))
    values[0, 0] = [0, 0.4, 0.9, 0.4, 0, 0.4, 0.6, 0.4, 0]
    assert hysteresis(values, 0.4, 0.9)[0, 0].tolist() == [False, True, True, True] + [False] * 5
    assert hysteresis(values, 0.4, 0.61)[0, 0].tolist() == [False, True, True, True] + [False] * 5
    assert hysteresis(values, 0.4, 0.6)[0, 0].tolist() == [False, True, True, True, False, True, True, True, False]
    assert hysteresis(values, 0.6, 0.0)[0, 0].tolist() == [v >= 0.6 for v in values[0, 0]]
    assert not hysteresis(values, 0.4, 0.95).any()


def box_with_cavity(size=9):
    mask = np.zeros((size,) * 3, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    mask[3:5, 3:5, 3:5] = False  # a cavity of 8
    mask[6, 6, 6] = False  # and one of 1
    return mask


def test_cavities_are_filled_up_to_a_size():
    mask = box_with_cavity()
    assert (fill_cavities(mask) & ~mask).sum() == 9
    assert (fill_cavities(mask, max_voxels=7) & ~mask).sum() == 1
    assert (fill_cavities(mask, max_voxels=8) & ~mask).sum() == 9


def test_a_leak_through_a_corner_is_a_matter_of_connectivity():
    mask = box_with_cavity()
    mask[1, 1, 1] = mask[2, 2, 2] = False  # a way out by corners alone
    assert not (fill_cavities(mask, connectivity=26) & ~mask)[2:5, 2:5, 2:5].any()
    assert (fill_cavities(mask, connectivity=6) & ~mask)[2:5, 2:5, 2:5].sum() == 9


def test_filling_is_that_of_scipy():
    for mask in random_masks():
        assert (fill_cavities(mask, connectivity=6) == ndimage.binary_fill_holes(mask)).all()


def test_nothing_to_fill_outside():
    assert not fill_cavities(np.zeros((3, 3, 3), bool)).any()
    assert fill_cavities(np.ones((3, 3, 3), bool)).all()


def ring():
    mask = np.zeros((3, 5, 5), bool)
    mask[1, 1:4, 1:4] = True
    mask[1, 2, 2] = False
    return mask


def staircase():
    mask = np.zeros((4, 4, 4), bool)
    mask[range(4), range(4), :] = True  # lines that touch by edges
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros((3, 3, 3), bool), (0, 0, 0)),
        (np.ones((3, 3, 3), bool), (0, 0, 0)),
        (ring(), (0, 1, 0)),
        (staircase(), (3, 0, 0)),
        (box_with_cavity(), (0, 0, 2)),
    ],
)
def test_betti_numbers_by_hand(mask, expected):
    assert tuple(betti_numbers(mask)) == expected


def test_betti_numbers_add_up_to_the_euler_characteristic_of_scikit_image():
    for mask in random_masks():
        components, tunnels, cavities = betti_numbers(mask)
        assert components + 1 - tunnels + cavities == euler_number(mask, connectivity=1)
        assert tunnels >= 0
        assert components + 1 == ndimage.label(mask, STRUCTURES[6])[1]

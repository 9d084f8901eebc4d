import numpy as np
import pytest
from scipy import ndimage

from custom.ops.components import betti_numbers, label_components
from custom.ops.morphology import close
from custom.ops.sheets import close_sheets, patch_holes


def curved_sheet(slope=0.5, half=1.5, shape=(44, 40, 40)):
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(np.float32)
    return np.abs(z - 10 - slope * x - 2 * np.sin(y / 9)) < half


def holed(mask, radius, centre=(20, 20)):
    _, y, x = np.indices(mask.shape)
    return mask & ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 >= radius**2)


def two_sheets(gap):
    mask = np.zeros((20, 15, 15), bool)
    mask[5:7] = mask[7 + gap : 9 + gap] = True
    return mask


@pytest.mark.parametrize("gap", [1, 2, 3, 6])
def test_closing_keeps_neighbours_apart(gap):
    mask = two_sheets(gap)
    mask[5:7, 7, 7] = False
    assert label_components(mask)[1] == 2
    closed = close_sheets(mask, 3)
    assert label_components(closed)[1] == 2
    assert (closed >= mask).all()


def test_a_plain_closing_runs_them_together():
    assert label_components(close(two_sheets(2), 3))[1] == 1


def test_away_from_neighbours_it_is_the_plain_closing():
    mask = holed(curved_sheet(), 2.5)
    assert (close_sheets(mask, 3) == close(mask, 3)).all()
    assert betti_numbers(mask)[1] == 1
    assert betti_numbers(close_sheets(mask, 3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("slope", [0.0, 0.5, 0.8])
def test_a_large_hole_is_patched_along_the_sheet(axes, slope):
    sheet = curved_sheet(slope)
    mask = holed(sheet, 7)
    patched = patch_holes(mask.transpose(axes), max_area=300).transpose(np.argsort(axes))
    assert betti_numbers(mask).tolist() == [0, 1, 0]
    assert betti_numbers(patched).tolist() == [0, 0, 0]
    assert label_components(patched, 6)[1] == 1
    assert (patched >= mask).all()
    missing, added = sheet & ~mask, patched & ~mask
    assert 2 * (missing & added).sum() / (missing.sum() + added.sum()) > 0.8  # close to the sheet that was cut out


def test_holes_larger_than_asked_stay():
    mask = holed(curved_sheet(), 7)  # 145 pixels or so
    assert (patch_holes(mask, max_area=100) == mask).all()
    assert (patch_holes(mask, max_area=300) != mask).any()


def test_notches_and_small_sheets_stay():
    notched = holed(curved_sheet(), 7, centre=(20, 0))
    assert (patch_holes(notched, max_area=300) == notched).all()
    mask = holed(curved_sheet(), 7)
    assert (patch_holes(mask, max_area=300, min_voxels=int(mask.sum()) + 1) == mask).all()


def test_a_patch_that_would_touch_another_sheet_is_left_out():
    mask = holed(curved_sheet(slope=0), 7)
    mask[9:12, 19:22, 19:22] = True  # something else inside the hole
    assert (patch_holes(mask, max_area=300, min_voxels=100) == mask).all()


def test_a_folded_rim_is_left_alone():
    mask = holed(curved_sheet(slope=0), 7)
    mask[18:20, 5:12, 5:35] = True  # a second storey that reaches the rim, joined to the first at its side
    mask[10:20, 5:7, 5:35] = True
    mask[18:20, 12:14, 15:25] = True
    assert label_components(mask)[1] == 1
    assert (patch_holes(mask, max_area=300) == mask).all()


def test_a_rim_that_jumps_is_left_alone():
    """Two halves at different heights, joined by a wall away from the hole, are not one sheet to be patched."""
    mask = np.zeros((20, 40, 40), bool)
    mask[5:7, :, :20] = mask[12:14, :, 20:] = True
    assert label_components(mask)[1] == 2
    mask[5:14, :10, 20] = True
    _, y, x = np.indices(mask.shape)
    mask &= (y - 22) ** 2 + (x - 20) ** 2 >= 36
    assert label_components(mask)[1] == 1
    assert (patch_holes(mask, max_area=300) == mask).all()


@pytest.mark.parametrize("radius", [1, 2])
def test_components_are_never_joined(radius):
    """Nor at corners: components are 26-connected."""
    generator = np.random.default_rng(0)
    for _ in range(30):
        mask = ndimage.binary_dilation(generator.random((14, 14, 14)) < 0.01)
        _, before = ndimage.label(mask, np.ones((3, 3, 3)))
        _, after = ndimage.label(close_sheets(mask, radius), np.ones((3, 3, 3)))
        assert after == before


def test_nothing_to_do():
    for mask in (np.zeros((6, 6, 6), bool), np.ones((6, 6, 6), bool), curved_sheet()):
        assert (patch_holes(mask, max_area=100) == mask).all()
        assert (close_sheets(mask, 2) >= mask).all()

import numpy as np
import pytest

from custom.ops.components import betti_numbers, label_components
from custom.ops.tunnels import fill_tunnels


def plate(thickness=2, slope=0.0, shape=(24, 24, 24)):
    z, _, x = np.indices(shape)
    height = z - 8 - np.rint(slope * x)
    return (height >= 0) & (height < thickness)


def pierced(mask, radius, centre=(12, 12)):
    _, y, x = np.indices(mask.shape)
    return mask & ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 >= radius**2)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize(("thickness", "slope", "radius"), [(1, 0, 3), (2, 0, 3), (3, 0, 3), (3, 0.5, 2)])
def test_a_hole_through_a_plate_is_filled(axes, thickness, slope, radius):
    whole = plate(thickness, slope)
    mask = pierced(whole, radius)
    assert betti_numbers(mask).tolist() == [0, 1, 0]
    filled = fill_tunnels(mask.transpose(axes), radius=3).transpose(np.argsort(axes))
    assert betti_numbers(filled).tolist() == [0, 0, 0]
    assert (filled >= mask).all()
    if slope == 0:
        assert (filled == whole).all()


def test_larger_holes_stay():
    mask = pierced(plate(), 4)
    assert (fill_tunnels(mask, radius=2) == mask).all()
    assert (fill_tunnels(mask, radius=4) == plate()).all()


def test_notches_and_cavities_stay():
    notched = pierced(plate(), 3, centre=(12, 0))
    assert (fill_tunnels(notched, radius=3) == notched).all()
    hollow = plate(thickness=5)
    hollow[10, 11:14, 11:14] = False
    assert betti_numbers(hollow).tolist() == [0, 0, 1]
    assert (fill_tunnels(hollow, radius=3) == hollow).all()


def test_a_pocket_is_not_shut():
    """A cavity with one opening has no tunnel; filling the opening would raise the Euler number all the same."""
    mask = plate(thickness=9)
    mask[10:15, 9:16, 9:16] = False  # hollow
    mask[8:10, 12, 12] = False  # its opening
    mask = pierced(mask, 2, centre=(4, 4))  # a tunnel elsewhere
    assert betti_numbers(mask).tolist() == [0, 1, 0]
    filled = fill_tunnels(mask, radius=2)
    assert betti_numbers(filled).tolist() == [0, 0, 0]
    assert not filled[10:15, 9:16, 9:16].any() and not filled[8:10, 12, 12].any()


def test_nothing_is_joined():
    mask = pierced(plate(), 3)
    mask[8, 12, 12] = True  # something else in the middle of the hole
    assert (fill_tunnels(mask, radius=3) == mask).all()
    sheets = np.zeros((20, 24, 24), bool)
    sheets[4:6] = sheets[8:10] = True
    filled = fill_tunnels(pierced(sheets, 2), radius=3)
    assert label_components(filled)[1] == 2
    assert (filled == sheets).all()


def test_at_the_edge_of_the_volume():
    mask = pierced(np.ones((2, 9, 9), bool), 2, centre=(4, 4))
    assert fill_tunnels(mask, radius=2).all()
    for empty in (np.zeros((5, 5, 5), bool), np.ones((5, 5, 5), bool)):
        assert (fill_tunnels(empty, radius=2) == empty).all()

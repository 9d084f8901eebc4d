import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import ball

from custom.ops.morphology import ball_offsets, close, dilate, plug_pinholes


def random_masks(count=12):
    generator = np.random.default_rng(0)
    for index in range(count):
        yield generator.random(tuple(generator.integers(1, 13, 3))) < (0.02, 0.2, 0.6)[index % 3]


@pytest.mark.parametrize("radius", [0, 1, 1.5, 2, 2.5, 3, 5])
def test_dilation_is_a_threshold_on_the_exact_distance(radius):
    for mask in random_masks():
        expected = ndimage.distance_transform_edt(~mask) <= radius if mask.any() else mask
        assert (dilate(mask, radius) == expected).all()


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_closing_is_that_of_scipy_with_a_ball(radius):
    for mask in random_masks():
        padded = np.pad(mask, 8)
        expected = ndimage.binary_closing(padded, ball(radius))[8:-8, 8:-8, 8:-8]
        assert (close(mask, radius) == expected).all()


def test_closing_never_removes():
    for mask in random_masks():
        assert (close(mask, 2.5) >= mask).all()


@pytest.mark.parametrize("radius", [0, 1, 2.5, 4])
def test_ball_offsets_are_the_ball_from_the_inside_out(radius):
    offsets = ball_offsets(radius)
    lengths = np.linalg.norm(offsets, axis=1)
    assert (np.diff(lengths) >= 0).all()
    assert len(np.unique(offsets, axis=0)) == len(offsets)
    reach = np.arange(-5, 6)
    inside = sum(x * x + y * y + z * z <= radius * radius for x in reach for y in reach for z in reach)
    assert len(offsets) == inside and lengths.max() <= radius


@pytest.mark.parametrize(("squared", "count"), [(2, 19), (3, 27), (5, 57), (6, 81)])
def test_square_roots_are_within_their_own_radius(squared, count):
    """Their squares may be smaller than the number, as that of sqrt(3) is."""
    point = np.zeros((7, 7, 7), bool)
    point[3, 3, 3] = True
    assert len(ball_offsets(squared**0.5)) == dilate(point, squared**0.5).sum() == count


def sheet(thickness=2):
    mask = np.zeros((8, 9, 9), bool)
    mask[3 : 3 + thickness] = True
    return mask


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_a_hole_one_voxel_wide_is_plugged(axes, thickness):
    holed = sheet(thickness)
    holed[:, 4, 4] = False
    assert (plug_pinholes(holed.transpose(axes)) == sheet(thickness).transpose(axes)).all()


def test_wider_holes_steps_and_gaps_are_left():
    mask = sheet()
    mask[:, 4, 4:6] = False  # two voxels wide
    mask[5, :4] = True  # a step
    mask[7, :, :] = True  # another sheet, one voxel above the step
    assert (plug_pinholes(mask, iterations=3) == mask).all()


def test_the_input_is_left_alone():
    mask = sheet()
    mask[:, 4, 4] = False
    before = mask.copy()
    plug_pinholes(mask)
    close(mask, 2)
    dilate(mask, 2)
    assert (mask == before).all()

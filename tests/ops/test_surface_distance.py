import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice

from custom.ops.surface_distance import surface_dice


def voxel(*place, shape=(6, 7, 12)):
    mask = np.zeros(shape, bool)
    mask[place] = True
    return mask


@pytest.mark.parametrize(("distance", "expected"), [(0, 1), (1, 1), (2, 1), (3, 0.5), (4, 0), (7, 0)])
def test_two_voxels(distance, expected):
    """A voxel's surface is eight equal corners. Three voxels away the four facing corners are 2 apart, the others 3."""
    assert surface_dice(voxel(2, 3, 1), voxel(2, 3, 1 + distance)) == pytest.approx(expected)


def test_areas_weigh_and_are_not_counted():
    """A plate of 4x4x1 beside the same without a corner voxel; at tolerance 0 the shared patches count by area."""
    plate = np.zeros((4, 8, 8), bool)
    plate[1, 2:6, 2:6] = True
    chipped = plate.copy()
    chipped[1, 2, 2] = False
    # Areas of the marching-cubes patches round one voxel of eight, two in a row, four in a square.
    one, row, square = np.sqrt(3) / 8, np.sqrt(2) / 2, 1.0
    whole = 2 * (4 * one + 12 * row + 9 * square)
    score = surface_dice(plate, plate)
    assert score == 1
    near = surface_dice(plate, chipped, tolerance=0)
    # All patches of the whole plate lie on a patch of the chipped one except the 2 at the lost corner.
    lost = 2 * one
    assert near == pytest.approx(1 - lost / (whole + area_by_monai(chipped)), rel=1e-6)
    assert area_by_monai(plate) == pytest.approx(whole, rel=1e-6)


def area_by_monai(mask):
    from monai.metrics.utils import get_mask_edges

    tensor = torch.as_tensor(mask)
    edges, _, areas, _ = get_mask_edges(tensor, tensor, spacing=(1, 1, 1))
    return float(areas[edges].double().sum())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 2.0, 3.0])
def test_monai_gives_the_same(tolerance):
    generator = np.random.default_rng(0)
    for density in (0.01, 0.1, 0.3, 0.6, 0.9):
        masks = [generator.random((1, 1, 9, 11, 7)) < density for _ in range(2)]
        expected = compute_surface_dice(
            *map(torch.as_tensor, masks), [tolerance], include_background=True, use_subvoxels=True
        ).item()
        assert surface_dice(masks[0][0, 0], masks[1][0, 0], tolerance) == pytest.approx(expected, abs=2e-7)


def test_empty_masks():
    nothing = np.zeros((4, 4, 4), bool)
    assert surface_dice(nothing, nothing) == 1
    assert surface_dice(nothing, ~nothing) == surface_dice(~nothing, nothing) == 0
    assert surface_dice(~nothing, ~nothing) == 1  # its surface lies along the faces of the volume


@pytest.mark.filterwarnings("ignore")
def test_real_membranes(real_membranes):
    from custom.data.volumes import read_volume

    label = read_volume(real_membranes / "train_labels" / "10.tif").array[:, :64, :64]
    guess = read_volume(real_membranes / "train_images" / "10.tif").array[:, :64, :64] < 100
    tensors = [torch.as_tensor(mask != 0)[None, None] for mask in (guess, label)]
    expected = compute_surface_dice(*tensors, [2.0], include_background=True, use_subvoxels=True).item()
    assert 0.1 < expected < 0.999
    assert surface_dice(guess, label) == pytest.approx(expected, abs=1e-6)

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import euler_number

from custom.ops.compression import compress, gaps, interpolate, move_mask, shear, sheet_axis


def flat_sheets(axis: int = 0) -> np.ndarray:
    """Bright plates 3 thick, 10 apart, across ``axis``; dark between them."""
    profile = np.where(np.arange(40) % 10 < 3, 100.0, 20.0).astype(np.float32)
    return np.moveaxis(np.broadcast_to(profile[:, None, None], (40, 12, 14)), 0, axis).copy()


def compressed(lengths: np.ndarray) -> list[np.ndarray]:
    """Index and position for columns (rows, N), which the function takes as (N, rows, 1)."""
    return [result[..., 0].T.numpy() for result in compress(torch.from_numpy(lengths.T[..., None].copy()))]


def test_hand_computed_column():
    """Voxels 1 and 4 are halved, so 4 of 5 units of length remain: 0.5 is lost left of the middle, 0.5 right."""
    index, position = compressed(np.array([[1, 0.5, 1, 1, 0.5]]))
    # The edges of the voxels, about the middle, are then 0.5, 1.5, 2, 3, 4, 4.5; the result's centres 0.5, 1.5, ...
    assert index[0].tolist() == [0, 1, 2, 3, -1]
    assert position[0].tolist() == [-0.5, 0.5, 2, 3, 4.5]


@pytest.mark.parametrize("seed", range(3))
def test_equals_searching_each_voxel(seed):
    lengths = np.random.default_rng(seed).uniform(0.2, 1, (4, 30))
    lengths[1] = 1
    index, position = compressed(lengths)
    for row, (length, found, where) in enumerate(zip(lengths, index, position, strict=True)):
        edges = np.concatenate([[0], np.cumsum(length)])
        edges += 15 - edges[15]
        for m in range(30):
            j = np.searchsorted(edges, m + 0.5, side="right") - 1
            if j < 0 or j >= 30:
                beyond = edges[0] - (m + 0.5) if j < 0 else (m + 0.5) - edges[-1]
                assert found[m] == -1
                assert where[m] == pytest.approx(beyond - 0.5 if j < 0 else 29.5 - beyond)
            else:
                assert found[m] == j, (row, m)
                assert where[m] == pytest.approx(j - 0.5 + (m + 0.5 - edges[j]) / length[j])
    assert index[1].tolist() == list(range(30))


def test_the_map_is_monotone_and_keeps_stretches_of_full_length():
    lengths = np.random.default_rng(0).uniform(0.2, 1, (200, 60))
    lengths[:, 20:24] = lengths[:, 30:33] = 1
    index, position = compressed(lengths)
    for row, where in zip(index, position, strict=True):
        inside = row >= 0
        assert (np.diff(row[inside]) > 0).all()
        assert (np.diff(where[inside]) > 1 - 1e-9).all()
        assert [j for j in row if 20 <= j < 24] == [20, 21, 22, 23]
        assert [j for j in row if 30 <= j < 33] == [30, 31, 32]


def test_interpolate_is_numpys():
    random = np.random.default_rng(0)
    columns, position = random.random((20, 3, 4)), random.uniform(-3, 22, (20, 3, 4))
    result = interpolate(torch.from_numpy(columns), torch.from_numpy(position)).numpy()
    for a, b in np.ndindex(3, 4):
        np.testing.assert_allclose(result[:, a, b], np.interp(position[:, a, b], np.arange(20), columns[:, a, b]))


@pytest.mark.parametrize("axis", range(3))
def test_the_axis_across_the_sheets_is_found(axis):
    image = flat_sheets(axis) + np.random.default_rng(0).normal(0, 15, flat_sheets(axis).shape).astype(np.float32)
    assert sheet_axis(torch.from_numpy(image)) == axis


def test_gaps_are_the_dark_between_the_sheets_and_not_the_mask_around_the_scroll():
    image = np.concatenate([flat_sheets()] * 3, axis=2)
    image[:, :, :21] = 0
    gap = gaps(torch.from_numpy(image))
    assert gap.min() >= 0
    assert gap.max() <= 1
    scanned = gap[:, :, -3:]
    assert (scanned[np.arange(40) % 10 == 1] < 0.01).all()
    assert (scanned[np.arange(40) % 10 == 6] > 0.9).all()
    assert (gap[:, :, 0] < 0.01).all()


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_uniform_image_has_no_gaps(value):
    assert (gaps(torch.full((8, 9, 10), value)) == 0).all()


def test_shear_tells_columns_across_sheets_from_columns_along_them():
    across, along = (torch.from_numpy((flat_sheets(axis) < 50).astype(np.float32)) for axis in (0, 1))
    assert shear(across) == 0
    assert shear(along) == pytest.approx(6.0)  # half a column of 12 voxels: all gap in one, none in the next


def test_moved_sheets_have_fewer_pinholes_than_nearest_sampling_makes():
    """Wavy sheets two voxels thick, pressed by a map that differs a little from column to column."""
    z, y, x = np.mgrid[:40, :48, :60]
    thickness = np.sqrt(1 + np.square(6 / 7 * np.cos(y / 7)))
    mask = np.abs((x + 6 * np.sin(y / 7) + z / 8) % 12 - 6) < thickness
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(mask.shape), (2, 2, 0))
    lengths = 1 - 0.3 * np.clip(0.5 + 0.5 * noise / noise.std(), 0, 1) * ~mask
    index, position = compress(torch.from_numpy(np.moveaxis(lengths, -1, 0).copy()))
    moved = np.moveaxis(move_mask(torch.from_numpy(np.moveaxis(mask, -1, 0).copy()), position).numpy(), 0, -1)
    index = np.moveaxis(index.numpy(), 0, -1)
    nearest = np.take_along_axis(mask, index, axis=-1) & (index >= 0)
    moved &= index >= 0
    assert euler_number(mask, 1) == 8
    assert euler_number(nearest, 1) < -100  # components less tunnels
    assert euler_number(moved, 1) > -40
    assert moved.sum() == pytest.approx(nearest.sum(), rel=0.02)


def test_interpolation_stays_within_the_range_of_what_it_was_given():
    """In float32, ``low + 1 * (high - low)`` is above ``high`` for some numbers, and just below 1 is rounded to 1."""
    columns = np.random.default_rng(0).random((10_000, 2), dtype=np.float32) * 255
    over = columns[columns[:, 0] + (columns[:, 1] - columns[:, 0]) > columns.max(1)]
    assert len(over)
    for pair in over[:20]:
        position = torch.tensor([[[1 - 1e-9]]], dtype=torch.float64)
        assert interpolate(torch.from_numpy(pair)[:, None, None], position) <= pair.max()

import numpy as np
import pytest

from custom.ops.components import label_components
from custom.ops.unmerge import overlap, split_merged


def two_sheets(slope=0.3, gap=3):
    """Levels of two parallel sheets three voxels thick, joined at level 1 alone, by a bridge of three columns."""
    z, _, x = np.indices((30, 40, 40))
    height = z - 6 - np.rint(slope * x)
    lower, upper = (height >= 0) & (height < 3), (height >= 3 + gap) & (height < 6 + gap)
    bridge = (height >= 3) & (height < 3 + gap)
    bridge[:, :10] = bridge[:, 13:] = False
    levels = 3 * (lower | upper).astype(np.int8) + bridge
    return levels, lower, upper


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_two_sheets_joined_by_a_bridge_are_separated(axes, slope):
    levels, lower, upper = (array.transpose(axes) for array in two_sheets(slope))
    mask = levels >= 1
    assert label_components(mask)[1] == 1
    split = split_merged(mask, levels, [2])
    labels, count = label_components(split)
    assert count == 2 and (split <= mask).all()
    assert np.count_nonzero(mask & ~split) < 0.1 * np.count_nonzero(mask)
    assert len(np.unique(labels[lower & split])) == 1
    assert len(np.unique(labels[upper & split])) == 1


def test_what_no_threshold_separates_stays():
    levels, _, _ = two_sheets()
    mask = levels >= 1
    assert (split_merged(mask, np.minimum(levels, 1), [2]) == mask).all()
    assert (split_merged(mask, levels, []) == mask).all()


def test_the_lowest_level_that_separates_is_used():
    """The upper sheet has no voxels at the third level; the second one separates the sheets."""
    levels, _, upper = two_sheets()
    levels[upper] = 2
    split = split_merged(levels >= 1, levels, [2, 3])
    assert label_components(split)[1] == 2
    assert np.count_nonzero(split & upper) > 0.9 * np.count_nonzero(upper)


def test_a_single_sheet_with_gaps_at_higher_levels_stays_whole():
    levels, lower, _ = two_sheets()
    levels[lower & (np.arange(40) % 14 == 0)] = 1  # strips of the lower sheet are fainter
    split = split_merged(levels >= 1, levels, [2])
    labels, count = label_components(split)
    assert count == 2
    assert len(np.unique(labels[lower & split])) == 1
    single = np.where(lower, levels, 0)
    assert (split_merged(single >= 1, single, [2]) == lower).all()


def test_small_parts_are_no_sheets():
    levels, _, _ = two_sheets()
    mask = levels >= 1
    assert (split_merged(mask, levels, [2], min_voxels=40 * 40 * 3 + 1) == mask).all()


def test_overlap_counts_pixels_with_two_heights():
    sheet = np.zeros((10, 20, 20), bool)
    sheet[4:6] = True
    assert overlap(sheet) == 0
    sheet[8, :5] = True
    assert overlap(sheet) == 0.25
    assert overlap(np.zeros((4, 4, 4), bool)) == 0

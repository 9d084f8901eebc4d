"""Every score against hand-computed numbers and against MONAI's functions for the distances."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from custom.metrics.liver_case import COLUMNS, SCORES, match_lesions, measure

NAN = math.nan


def row(text):
    """A volume of one row of voxels, such as "0112"."""
    return np.array([[list(map(int, text))]], np.uint8)


# prediction, label, then dice, voe and rvd of the liver, then of the tumour
VOLUMES = {
    "perfect": ("01120", "01120", (1, 0, 0), (1, 0, 0)),
    "shifted": ("11100", "01110", (4 / 6, 1 - 2 / 4, 0), (NAN, NAN, NAN)),
    "too much": ("1111", "0110", (4 / 6, 1 - 2 / 4, 1.0), (NAN, NAN, NAN)),
    "too little": ("0100", "1111", (2 / 5, 1 - 1 / 4, -0.75), (NAN, NAN, NAN)),
    "tumour taken for liver": ("1111", "1122", (1, 0, 0), (0, 1, -1)),
    "liver taken for tumour": ("1122", "1111", (1, 0, 0), (0, 1, NAN)),
    "tumour shifted": ("12211", "11221", (1, 0, 0), (2 / 4, 1 - 1 / 3, 0)),
    "nothing found": ("0000", "0120", (0, 1, -1), (0, 1, -1)),
    "false alarm in an empty volume": ("0120", "0000", (0, 1, NAN), (0, 1, NAN)),
    "both empty": ("0000", "0000", (NAN, NAN, NAN), (NAN, NAN, NAN)),
    "tumour outside the liver": ("11002", "11000", (4 / 5, 1 - 2 / 3, 0.5), (0, 1, NAN)),
}


@pytest.mark.parametrize("prediction, label, liver, tumor", VOLUMES.values(), ids=VOLUMES)
def test_overlap_by_hand(prediction, label, liver, tumor):
    values = measure(row(prediction), row(label), distances=False)
    assert list(values) == list(COLUMNS)
    for region, expected in (("liver", liver), ("tumor", tumor)):
        found = [values[f"{region}_{score}"] for score in SCORES]
        assert found == pytest.approx([*expected, NAN, NAN], nan_ok=True)


@pytest.mark.parametrize(
    "prediction, label, expected",
    [
        ("1122", "1112", 2 / 4 - 1 / 4),
        ("1111", "1122", -2 / 4),
        ("0000", "1122", NAN),
        ("1122", "0000", NAN),
        ("1110", "1100", 0),
    ],
)
def test_tumor_burden_error_by_hand(prediction, label, expected):
    assert measure(row(prediction), row(label))["tumor_burden_error"] == pytest.approx(expected, nan_ok=True)


def slabs(spacing):
    """Two blocks of 3 x 4 x 4 voxels, the prediction two voxels further along the first axis."""
    prediction, label = np.zeros((2, 9, 8, 8), np.uint8)
    label[1:4, 2:6, 2:6] = 1
    prediction[3:6, 2:6, 2:6] = 1
    return measure(prediction, label, spacing)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1), (2.5, 0.7, 0.7)])
def test_distances_of_shifted_blocks_by_hand(spacing):
    """A block has 16 + 12 + 16 surface voxels in its three layers, the middle one being hollow.

    Seen from either block, one outer layer lies on the other block's outer layer, the middle layer is one step from
    that, the second outer layer two steps.
    """
    step = spacing[0]
    values = slabs(spacing)
    assert values["liver_assd"] == pytest.approx((16 * 0 + 12 * step + 16 * 2 * step) / 44, rel=1e-6)
    assert values["liver_hd95"] == pytest.approx(2 * step, rel=1e-6)


def test_anisotropic_spacing_changes_millimetres_alone():
    thin, thick = slabs((1, 1, 1)), slabs((5, 1, 1))
    for name in ("dice", "voe", "rvd"):
        assert thin[f"liver_{name}"] == thick[f"liver_{name}"]
    assert thick["liver_assd"] == pytest.approx(5 * thin["liver_assd"])


def lumps(seed, shape=(10, 18, 16)):
    generator = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(generator.normal(size=shape), 1.5) for _ in range(2)]
    label = (smooth[0] > 0.02).astype(np.uint8)
    label[smooth[0] > 0.12] = 2
    prediction = (smooth[0] + 0.3 * smooth[1] > 0.02).astype(np.uint8)
    prediction[smooth[0] + 0.3 * smooth[1] > 0.13] = 2
    return prediction, label


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.7)])
@pytest.mark.parametrize("region, least", [("liver", 1), ("tumor", 2)])
def test_distances_are_monais(seed, spacing, region, least):
    prediction, label = lumps(seed)
    found, true = (torch.from_numpy(array >= least)[None, None] for array in (prediction, label))
    options = {"include_background": True, "spacing": spacing}
    values = measure(prediction, label, spacing)
    assd = compute_average_surface_distance(found, true, symmetric=True, **options)
    hd95 = compute_hausdorff_distance(found, true, percentile=95, **options)
    assert values[f"{region}_assd"] == pytest.approx(assd.item(), rel=1e-5)
    assert values[f"{region}_hd95"] == pytest.approx(hd95.item(), rel=1e-5)


def brute_force(found, true, spacing):
    """Distances between surfaces voxel by voxel; a surface voxel has a face neighbour outside."""
    surfaces = []
    for mask in (found, true):
        padded = np.pad(mask, 1)
        inside = np.logical_and.reduce([np.roll(padded, step, axis) for axis in range(mask.ndim) for step in (-1, 1)])
        surfaces.append(np.argwhere(padded & ~inside) * spacing)
    between = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    return between.min(1), between.min(0)


def test_distances_from_the_definition():
    prediction, label = lumps(3, (8, 12, 12))
    spacing = np.array([3.0, 0.9, 1.1])
    there, back = brute_force(prediction > 0, label > 0, spacing)
    values = measure(prediction, label, spacing)
    assert values["liver_assd"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-6)
    larger = max(np.percentile(there, 95), np.percentile(back, 95))
    assert values["liver_hd95"] == pytest.approx(larger, rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_in_a_single_slice_the_surface_is_its_outline(axis):
    """In 3-D every voxel of a slice would be surface."""
    prediction, label = np.zeros((2, 9, 9), np.uint8)
    label[2:7, 2:7] = 1
    prediction[2:7, 2:8] = 1
    there, back = brute_force(prediction > 0, label > 0, np.array([0.5, 2.0]))
    spacing = np.insert([0.5, 2.0], axis, 7.0)
    values = measure(np.expand_dims(prediction, axis), np.expand_dims(label, axis), spacing)
    assert values["liver_assd"] == pytest.approx(np.concatenate([there, back]).mean())
    assert values["liver_hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))


@pytest.mark.parametrize("prediction, label", [("0000", "0110"), ("0110", "0000"), ("0000", "0000")])
def test_no_distance_to_nothing(prediction, label):
    values = measure(row(prediction), row(label), (1, 1, 1))
    assert math.isnan(values["liver_assd"]) and math.isnan(values["liver_hd95"])


def test_one_voxel_and_one_row():
    assert measure(np.ones((1, 1, 1), np.uint8), np.ones((1, 1, 1), np.uint8), (1, 1, 1))["liver_hd95"] == 0
    values = measure(row("11000"), row("01100"), (1, 1, 3))
    assert values["liver_assd"] == pytest.approx(1.5)
    assert values["liver_hd95"] == pytest.approx(3 * 0.95)  # between 0 and 3, linearly


def test_no_spacing_no_distance():
    values = measure(row("0110"), row("0110"))
    assert values["liver_dice"] == 1 and math.isnan(values["liver_assd"])


# Tumours in one row; a lesion is a run of 2.
LESIONS = {
    "all found": ("0220022", "0220022", (2, 0, 0)),
    "one missed, one invented": ("2200000", "0000022", (0, 1, 1)),
    "IoU 3/4": ("2220000", "2222000", (1, 0, 0)),
    "IoU 2/3": ("0220000", "0222000", (1, 0, 0)),
    "IoU 1/2 is not enough": ("0022220", "0022000", (0, 1, 1)),
    "one prediction over two lesions": ("2222222", "2220222", (0, 1, 2)),
    "one large enough for one of two": ("2222220", "2222202", (1, 0, 1)),
    "two predictions in one lesion": ("2202222", "2222222", (1, 1, 0)),
    "no lesion, none found": ("1111", "1111", (0, 0, 0)),
    "no lesion, two found": ("1212", "1111", (0, 2, 0)),
    "two lesions, none found": ("1111", "1212", (0, 0, 2)),
}


@pytest.mark.parametrize("prediction, label, expected", LESIONS.values(), ids=LESIONS)
def test_lesions_by_hand(prediction, label, expected):
    assert match_lesions(row(prediction), row(label)) == expected
    values = measure(row(prediction), row(label))
    assert tuple(values[f"lesion_{name}"] for name in ("tp", "fp", "fn")) == expected


@pytest.mark.parametrize("second", [(1, 1, 0), (1, 0, 1), (1, 1, 1)])
def test_lesions_that_touch_at_an_edge_or_corner_are_one(second):
    label = np.zeros((4, 4, 4), np.uint8)
    label[1, 1, 1] = label[tuple(np.add(second, 1))] = 2
    assert match_lesions(np.zeros_like(label), label) == (0, 0, 1)
    label[1, 1, 1], label[0, 0, 0] = 0, 2
    assert match_lesions(np.zeros_like(label), label)[2] == 2


def test_touching_lesions_of_a_prediction_are_held_against_one_label():
    """Two true lesions one voxel apart; the prediction bridges the gap, so it has found one thing that is neither."""
    label = np.zeros((3, 3, 9), np.uint8)
    label[:, :, 0:4] = label[:, :, 5:9] = 2
    prediction = label.copy()
    prediction[1, 1, 4] = 2
    assert match_lesions(label, label) == (2, 0, 0)
    assert match_lesions(prediction, label) == (0, 1, 2)


@pytest.mark.parametrize("axes, flips", [((2, 0, 1), ()), ((1, 0, 2), (0, 2)), ((0, 1, 2), (1,))])
def test_the_order_of_the_axes_does_not_matter(axes, flips):
    prediction, label = lumps(5)
    spacing = np.array([4.0, 0.8, 1.3])
    expected = measure(prediction, label, spacing)
    turned = [np.flip(array.transpose(axes), flips) for array in (prediction, label)]
    assert measure(*turned, spacing[list(axes)]) == pytest.approx(expected, nan_ok=True)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        measure(row("00"), row("000"))
    with pytest.raises(ValueError, match="one shape"):
        measure(np.zeros((3, 3)), np.zeros((3, 3)))

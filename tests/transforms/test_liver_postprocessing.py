import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage

from custom.transforms.liver_postprocessing import CleanLiverd, clean_liver

OFF = {"largest_liver": False, "fill_holes": False, "tumor_margin_mm": None, "min_size_mm3": 0}


def one_row(text):
    """A volume of one row of voxels, such as "11002"."""
    return np.array([[list(map(int, text))]], np.uint8)


def as_text(label):
    return "".join(map(str, label.ravel()))


ROWS = {
    "nothing asked, nothing done": ({}, "1011022001", "1011022001"),
    "largest": ({"largest_liver": True}, "1100111000110", "0000111000000"),
    "largest counts the tumour in it": ({"largest_liver": True}, "11100122210", "00000122210"),
    "largest liver, tumours untouched": ({"largest_liver": True}, "111001022", "111000022"),
    "a tumour alone is no liver": ({"largest_liver": True}, "2222201", "2222201"),
    "all tumour": ({"largest_liver": True, "tumor_margin_mm": 0}, "2202220", "0002220"),
    "margin 0": ({"tumor_margin_mm": 0}, "1120200201", "1120000001"),
    "margin 2": ({"tumor_margin_mm": 2}, "1100222000", "1100000000"),
    "margin 3": ({"tumor_margin_mm": 3}, "1100222000", "1100200000"),
    "margin from the largest": ({"largest_liver": True, "tumor_margin_mm": 1}, "1110000120", "1110000000"),
    "small liver": ({"min_size_mm3": 2}, "1001101", "0001100"),
    "small tumour becomes liver": ({"min_size_mm3": 2}, "1121122", "1111122"),
    "small tumour apart is removed": ({"min_size_mm3": 2}, "110200220", "110000220"),
    "hole, in a row": ({"fill_holes": True}, "01011", "01111"),
    "hole in a tumour": ({"fill_holes": True}, "1202121", "1222221"),
    "hole between the two": ({"fill_holes": True}, "10200", "11200"),
    "no liver": ({"largest_liver": True, "fill_holes": True}, "0000", "0000"),
}


@pytest.mark.parametrize("options, row, expected", ROWS.values(), ids=ROWS)
def test_by_hand(options, row, expected):
    assert as_text(clean_liver(one_row(row), **(OFF | options))) == expected


def blobs(shape=(14, 22, 20), seed=0, sigma=1.5):
    """Random smooth lumps of liver with lumps of tumour, some of them outside."""
    generator = np.random.default_rng(seed)
    field, other = (ndimage.gaussian_filter(generator.normal(size=shape), sigma) for _ in range(2))
    label = (field > 0.07).astype(np.uint8)
    label[(other > 0.13) & (field > 0.0)] = 2
    return label


@pytest.mark.parametrize("seed", range(3))
def test_largest_is_monais_largest(seed):
    label = (blobs(seed=seed, sigma=1.2) > 0).astype(np.uint8)
    expected = KeepLargestConnectedComponent(connectivity=3)(torch.tensor(label)[None])[0].numpy()
    assert expected.sum() < label.sum()
    assert np.array_equal(clean_liver(label, **(OFF | {"largest_liver": True})), expected)


@pytest.mark.parametrize("shape", [(14, 22, 20), (1, 40, 40), (40, 40)])
def test_holes_are_scipys_holes(shape):
    generator = np.random.default_rng(1)
    label = (ndimage.gaussian_filter(generator.normal(size=shape), 0.8) > -0.25 * 0.6 ** len(shape)).astype(np.uint8)
    expected = ndimage.binary_fill_holes(label.squeeze()).reshape(shape)
    assert expected.sum() > label.sum()
    assert np.array_equal(clean_liver(label, **(OFF | {"fill_holes": True})), expected)


def test_a_ring_one_voxel_thick_has_no_hole_in_a_volume():
    label = np.zeros((3, 5, 5), np.uint8)
    label[1, 1:4, 1:4] = 1
    label[1, 2, 2] = 0
    assert np.array_equal(clean_liver(label, min_size_mm3=0), label)
    assert clean_liver(label[1], min_size_mm3=0)[2, 2] == 1


@pytest.mark.parametrize("value", [1, 2])
def test_one_voxel(value):
    assert clean_liver(np.full((1, 1, 1), value, np.uint8), min_size_mm3=0).item() == value


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5.0, 0.7, 0.9)])
def test_margin_is_a_distance_in_millimetres(spacing):
    label = np.zeros((7, 15, 15), np.uint8)
    label[3, 7, 7] = 1
    label[label == 0] = 2
    label[2:5, 6:9, 6:9][label[2:5, 6:9, 6:9] == 2] = 0  # a gap, or the tumour would be part of the liver
    cleaned = clean_liver(label, spacing=spacing, **(OFF | {"tumor_margin_mm": 4.0}))
    steps = np.moveaxis(np.indices(label.shape), 0, -1) - [3, 7, 7]
    near = np.linalg.norm(steps * spacing, axis=-1) <= 4.0
    assert np.array_equal(cleaned == 2, (label == 2) & near)
    assert 0 < (cleaned == 2).sum() < (label == 2).sum()


def test_least_size_is_a_volume_in_cubic_millimetres():
    row = one_row("2202222")
    row[row == 0] = 1
    options = OFF | {"min_size_mm3": 12}
    assert as_text(clean_liver(row, spacing=(1, 1, 4), **options)) == "1112222"
    assert as_text(clean_liver(row, spacing=(3, 1, 2), **options)) == "2212222"


@pytest.mark.parametrize("axes, flips", [((2, 0, 1), ()), ((1, 0, 2), (0,)), ((0, 1, 2), (0, 1, 2))])
def test_the_order_of_the_axes_does_not_matter(axes, flips):
    label, spacing = blobs(), np.array([3.0, 0.8, 1.1])
    cleaned = clean_liver(label, spacing=spacing, min_size_mm3=60)
    turned = clean_liver(np.flip(label.transpose(axes), flips), spacing=spacing[list(axes)], min_size_mm3=60)
    assert 0 < (cleaned > 0).sum() != (label > 0).sum()
    assert np.array_equal(turned, np.flip(cleaned.transpose(axes), flips))


def test_a_clean_liver_is_left_as_it_is():
    z, y, x = np.indices((12, 24, 24)) - np.array([6, 12, 12])[:, None, None, None]
    label = (4 * z**2 + y**2 + x**2 < 100).astype(np.uint8)
    label[4 * z**2 + (y - 3) ** 2 + x**2 < 16] = 2
    before = label.copy()
    assert np.array_equal(clean_liver(label), label)
    assert np.array_equal(label, before)


def test_everything_at_once():
    label = np.zeros((9, 30, 30), np.uint8)
    label[1:8, 3:18, 3:18] = 1  # the liver,
    label[4, 10, 10] = 0  # with a hole
    label[3:6, 5:9, 5:9] = 2  # and a tumour,
    label[4, 6, 6] = 0  # with a hole,
    label[4, 14, 14] = 2  # a speck called tumour,
    label[3:6, 20:24, 4:8] = 2  # a tumour 2 voxels off,
    label[3:6, 4:8, 25:29] = 2  # one 7 voxels off,
    label[2:8, 22:28, 22:28] = 1  # and the spleen.
    expected = np.zeros_like(label)
    expected[1:8, 3:18, 3:18] = 1
    expected[3:6, 5:9, 5:9] = 2
    expected[3:6, 20:24, 4:8] = 2
    assert np.array_equal(clean_liver(label, tumor_margin_mm=6.5, min_size_mm3=5), expected)


def test_transform_keeps_geometry_and_reads_the_spacing_from_it():
    row = torch.from_numpy(one_row("1100222000"))[None]
    for millimetres, expected in [(1, "1100200000"), (2, "1100000000")]:
        label = MetaTensor(row, affine=np.diag([5.0, 1.0, -millimetres, 1.0]))
        output = CleanLiverd(keys="pred", **(OFF | {"tumor_margin_mm": 3}))({"pred": label, "image": 7})
        assert as_text(output["pred"].numpy()) == expected
        assert torch.equal(output["pred"].affine, label.affine)
        assert output["pred"].shape == label.shape and output["pred"].dtype == torch.uint8
        assert output["image"] == 7


@pytest.mark.parametrize("label", [torch.zeros(1, 3, 4, 4), np.zeros((1, 4, 4), np.int16), torch.zeros(1, 1, 4, 4)])
def test_transform_on_empty_maps_of_any_kind(label):
    output = CleanLiverd(keys="pred")({"pred": label})["pred"]
    assert type(output) is type(label)
    assert output.shape == label.shape and not output.any()

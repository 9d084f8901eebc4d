"""nnU-Net's normalisations, computed by hand, and the box of what is not zero."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.errors import DataError
from custom.ops.boxes import NONZERO
from custom.transforms import NormalizeNnunetd

CT = {"mean": 100.0, "std": 50.0, "percentile_00_5": 20.0, "percentile_99_5": 220.0}


def volume():
    values = torch.zeros(1, 4, 5, 6)
    values[:, 1:3, 1:4, 2:6] = torch.arange(1.0, 25).reshape(2, 3, 4) * 10
    values[0, 1, 2, 3] = 0  # a hole on the border of the box's first slice
    return MetaTensor(values, affine=torch.eye(4))


def normalized(image, **options):
    return NormalizeNnunetd("image", **options)({"image": image})["image"]


BOX = (slice(None), slice(1, 3), slice(1, 4), slice(2, 6))


def test_ct_is_clipped_to_percentiles_of_the_training():
    found = normalized(volume(), scheme="CTNormalization", properties=CT)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.as_tensor(), (volume().as_tensor().clamp(20, 220) - 100) / 50)


def test_zscores_are_those_of_the_box():
    inside = volume().as_tensor()[BOX]
    found = normalized(volume(), scheme="ZScoreNormalization").as_tensor()
    torch.testing.assert_close(found[BOX], (inside - inside.mean()) / inside.std(correction=0))


def test_zscores_of_what_is_not_zero():
    inside = volume().as_tensor()[BOX]
    chosen = inside[inside != 0]
    found = normalized(volume(), scheme="ZScoreNormalization", use_mask=True).as_tensor()[BOX]
    torch.testing.assert_close(found[inside != 0], (chosen - chosen.mean()) / chosen.std(correction=0))
    assert found[inside == 0] == 0


@pytest.mark.parametrize(
    ("scheme", "scale"), [("NoNormalization", 1), ("RescaleTo01Normalization", 240), ("RGBTo01Normalization", 255)]
)
def test_other_schemes(scheme, scale):
    torch.testing.assert_close(normalized(volume(), scheme=scheme).as_tensor(), volume().as_tensor() / scale)


def test_the_box_is_noted():
    assert normalized(volume(), scheme="NoNormalization").meta[NONZERO].tolist() == [[1, 3], [1, 4], [2, 6]]
    empty = normalized(volume() * 0, scheme="ZScoreNormalization")
    assert empty.meta[NONZERO].tolist() == [[0, 4], [0, 5], [0, 6]]


def test_patches_are_normalised_as_a_whole():
    found = normalized(volume().as_tensor(), scheme="CTNormalization", properties=CT)
    assert found[0, 0, 0, 0] == (20 - 100) / 50


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization"])
def test_statistics_of_a_patch_are_refused(scheme):
    with pytest.raises(DataError, match=f"{scheme}: found a patch"):
        normalized(volume().as_tensor(), scheme=scheme)
    with pytest.raises(DataError, match=scheme):
        NormalizeNnunetd("image", scheme=scheme).intensity()


@pytest.mark.parametrize("scheme", ["CTNormalization", "NoNormalization", "RGBTo01Normalization"])
def test_the_intensities_of_parts_of_a_scroll_are_the_same(scheme):
    grey = torch.arange(256.0).reshape(1, 4, 8, 8)
    transform = NormalizeNnunetd("image", scheme=scheme, properties=CT)
    expected = transform({"image": grey})["image"]
    torch.testing.assert_close(torch.as_tensor(transform.intensity()({"image": grey})["image"]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "Percentile"}, "Percentile.*CTNormalization"),
        ({"scheme": "CTNormalization", "properties": {"mean": 1}}, "without percentile_00_5, percentile_99_5, std"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        NormalizeNnunetd("image", **options)


def test_values_that_are_no_colours_are_refused():
    with pytest.raises(DataError, match="values from 0 to 300, expected 0 to 255"):
        normalized(MetaTensor(np.full((1, 2, 2, 2), 300.0)) * torch.eye(2), scheme="RGBTo01Normalization")

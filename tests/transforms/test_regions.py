import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from custom.transforms.regions import LabelToRegionsd, RegionsToLabeld

LABEL = torch.tensor([[[0, 1, 2], [2, 1, 0]]])


@pytest.mark.parametrize(
    "regions, expected",
    [
        ([[1, 2], [2]], [[[0, 1, 1], [1, 1, 0]], [[0, 0, 1], [1, 0, 0]]]),
        ([[1]], [[[0, 1, 0], [0, 1, 0]]]),
        ([[2], [1], [0, 2]], [[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 1, 0]], [[1, 0, 1], [1, 0, 1]]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_label_to_regions_by_hand(regions, expected, dtype):
    output = LabelToRegionsd(keys="label", regions=regions)({"label": LABEL.to(dtype), "image": 1})
    assert output["label"].tolist() == expected
    assert output["label"].dtype == torch.uint8
    assert output["image"] == 1


def test_default_is_liver_and_tumour():
    output = LabelToRegionsd(keys="label")({"label": LABEL})["label"]
    assert output[0].tolist() == (LABEL[0] >= 1).int().tolist()
    assert output[1].tolist() == (LABEL[0] == 2).int().tolist()


@pytest.mark.parametrize(
    "thresholds, liver, tumour, expected",
    [
        (0.5, 0.49, 0.49, 0),
        (0.5, 0.5, 0.49, 1),
        (0.5, 0.9, 0.5, 2),
        (0.5, 0.1, 0.9, 2),  # tumour where no liver was found
        ([0.5, 0.3], 0.4, 0.3, 2),
        ([0.3, 0.9], 0.4, 0.8, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_regions_to_label_by_hand(thresholds, liver, tumour, expected, dtype):
    regions = torch.tensor([liver, tumour], dtype=dtype).view(2, 1, 1, 1)
    if dtype == torch.float16 and isinstance(thresholds, list):
        regions += 1e-3  # 0.3 is a little less in float16
    output = RegionsToLabeld(keys="pred", thresholds=thresholds)({"pred": regions})["pred"]
    assert output.shape == (1, 1, 1, 1)
    assert output.dtype == torch.uint8
    assert output.item() == expected


@pytest.mark.parametrize("shape", [(1, 3, 4), (1, 3, 4, 5)])
def test_there_and_back(shape):
    label = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    both = Compose([LabelToRegionsd(keys="label"), RegionsToLabeld(keys="label")])
    assert torch.equal(both({"label": label})["label"], label)


def test_there_and_back_with_one_merged_class():
    label = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    both = Compose([LabelToRegionsd(keys="label", regions=[[1]]), RegionsToLabeld(keys="label", labels=[1])])
    assert torch.equal(both({"label": label})["label"], label)


def test_geometry_and_file_name_are_kept():
    affine = np.diag([-0.7, 0.7, 5.0, 1.0])
    label = MetaTensor(LABEL[..., None], affine=affine, meta={"filename_or_obj": "segmentation-7.nii"})
    regions = LabelToRegionsd(keys="label")({"label": label})["label"]
    again = RegionsToLabeld(keys="label")({"label": regions})["label"]
    for tensor in (regions, again):
        assert np.allclose(tensor.affine, affine)
        assert tensor.meta["filename_or_obj"] == "segmentation-7.nii"


def test_arrays_are_taken_and_inputs_are_left_alone():
    array = LABEL.numpy().copy()
    LabelToRegionsd(keys="label")({"label": array})
    assert np.array_equal(array, LABEL.numpy())
    regions = torch.tensor([[[0.9]], [[0.1]]])
    RegionsToLabeld(keys="pred")({"pred": regions})
    assert regions.flatten().tolist() == pytest.approx([0.9, 0.1])


def test_wrong_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="one channel"):
        LabelToRegionsd(keys="label")({"label": torch.zeros(2, 3, 3)})
    with pytest.raises(ValueError, match="2 channels expected"):
        RegionsToLabeld(keys="pred")({"pred": torch.zeros(3, 3, 3)})
    with pytest.raises(ValueError, match="as many thresholds"):
        RegionsToLabeld(keys="pred", thresholds=[0.5])


def test_declared_in_json():
    parser = ConfigParser(
        {"t": {"_target_": "custom.transforms.regions.LabelToRegionsd", "keys": "label", "regions": [[1, 2], [2]]}}
    )
    assert parser.get_parsed_content("t")({"label": LABEL})["label"].shape == (2, 2, 3)

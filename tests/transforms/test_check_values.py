"""Files are judged as they were loaded, by the rules that tests/data/test_plausibility.py tries."""

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from custom.data import VolumeReader
from custom.errors import DataError
from custom.transforms import CheckValuesd


def said(caplog):
    """What was said of the file; MONAI has its own remarks."""
    return [record.getMessage() for record in caplog.records if record.name == "custom.data.plausibility"]


def loaded(path, **options):
    """As inference loads it."""
    steps = [LoadImaged("image", VolumeReader()), EnsureChannelFirstd("image"), CheckValuesd("image", **options)]
    return Compose(steps)({"image": str(path), "id": "a"})


def saved(path, array, affine):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_a_ct_in_hu_passes_untouched_and_without_a_word(tmp_path, caplog):
    hu = np.full((4, 5, 6), 50, np.int16)
    hu[:2] = -1000
    item = loaded(saved(tmp_path / "a.nii", hu, np.diag([2.0, 2, 3, 1])))
    np.testing.assert_array_equal(item["image"][0], hu)
    assert not said(caplog)


def test_what_is_doubtful_is_said_with_the_files_name(tmp_path, caplog):
    path = saved(tmp_path / "a.nii", np.full((4, 5, 6), 1074, np.int16), np.eye(4))
    loaded(path)
    values, affine = said(caplog)
    assert values.startswith(f"{path}: found values from 1074 to 1074, none of them of air")
    assert affine.startswith(f"{path}: found the identity affine")
    caplog.clear()
    loaded(path, trust_values=True)
    assert not said(caplog)


def test_what_is_wrong_is_refused():
    item = {"image": torch.linspace(0, 1, 60).reshape(1, 3, 4, 5), "id": "a"}
    for options in ({}, {"grey_values": [0, 255]}):
        with pytest.raises(DataError, match=r"^a: found values from 0 to 1, expected "):
            CheckValuesd("image", **options)(item)
        assert CheckValuesd("image", **options, trust_values=True)(item) == item

"""Volumes written here read back the same, through other readers than ours."""

import itk
import nibabel
import numpy as np
import pytest
from PIL import Image

from custom.data.writing import write_volume

AFFINE = np.array([[0, 0, -0.8, 40], [0, -0.7, 0, 30], [2.5, 0, 0, -100], [0, 0, 0, 1.0]])


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 255, (5, 6, 7)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_array_order_and_affine(tmp_path, volume, suffix):
    image = nibabel.load(write_volume(tmp_path / f"a{suffix}", volume, AFFINE))
    np.testing.assert_array_equal(image.get_fdata(), volume)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.get_data_dtype() == np.uint8


def test_tiff_pages_are_the_first_axis(tmp_path, volume):
    path = write_volume(tmp_path / "a.tif", volume)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(path))), volume)
    with Image.open(path) as image:
        assert image.info["compression"] == "tiff_lzw"
        assert image.n_frames == len(volume)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_formats_keep_the_geometry(tmp_path, volume, suffix):
    image = itk.imread(str(write_volume(tmp_path / f"a{suffix}", volume, AFFINE)))
    # ITK reverses the axes and counts in LPS millimetres.
    np.testing.assert_array_equal(itk.array_from_image(image).T, volume)
    found = np.asarray(image.TransformIndexToPhysicalPoint([1, 2, 3]))
    np.testing.assert_allclose(found * [-1, -1, 1], (AFFINE @ [1, 2, 3, 1])[:3], atol=1e-5)


def test_refuses_what_is_no_volume(tmp_path):
    with pytest.raises(ValueError, match="3 dimensions"):
        write_volume(tmp_path / "a.nii", np.zeros((2, 2)))
    assert list(tmp_path.iterdir()) == []

"""Volumes written here read back the same, through other readers than ours."""

import itk
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageSequence

from custom.data import writing
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


def by_pillow(path):
    with Image.open(path) as image:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 6, 7), (5, 4, 3), (4, 6, 4), (2, 1, 1)])
@pytest.mark.parametrize("dtype", ["?", "u1", "u2", ">i2", "i4", "f4", ">f4"])
def test_tiff_is_read_alike_everywhere(tmp_path, shape, dtype):
    # Pages of 3 or 4 rows or columns, or 3 or 4 of them, are what programs take for colours.
    volume = (np.random.default_rng(0).normal(size=shape) * 50 + 100).astype(dtype)
    path = write_volume(tmp_path / "a.tif", volume.swapaxes(1, 2).copy().swapaxes(1, 2))
    for read in (by_pillow(path), itk.array_from_image(itk.imread(str(path))), tifffile.imread(path)):
        np.testing.assert_array_equal(read.reshape(shape), volume)  # a stack of one page may come back as a plane
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == shape[0] and not file.is_bigtiff
        assert all(page.compression == 5 and not page.description for page in file.pages)


def test_only_large_tiff_is_bigtiff(tmp_path, volume, monkeypatch):
    monkeypatch.setattr(writing, "_CLASSIC_TIFF", volume.nbytes - 1)
    path = write_volume(tmp_path / "a.tif", volume)
    assert path.read_bytes()[:4] == b"II+\0"
    np.testing.assert_array_equal(by_pillow(path), volume)


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

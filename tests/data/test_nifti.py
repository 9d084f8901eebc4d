"""NIfTI: what nibabel sets right by a guess, cut off, longer than the header says, or in an unknown unit is refused."""

import gzip
import struct

import nibabel
import numpy as np
import pytest

from custom.data import read_volume
from custom.data.volumes import read_shape
from custom.errors import DataError

ARRAY = np.arange(24, dtype="<i2").reshape(2, 3, 4)
AFFINE = np.array([[-1.0, 0, 0, 3], [0, 2, 0, 4], [0, 0, -2.5, 5], [0, 0, 0, 1]])
# Bytes of the header, from the standard (nifti1.h).
MAGIC, DIM, DATATYPE, PIXDIM, OFFSET, UNITS, QFORM, SFORM = 344, 40, 70, 76, 108, 123, 252, 254


def written(path, *changes, form="qform", behind=b""):
    """A volume with bytes of its header changed, each ``(byte, kind, value)``."""
    image = nibabel.Nifti1Image(ARRAY, None)
    getattr(image, f"set_{form}")(AFFINE, 1)
    content = bytearray(image.to_bytes())
    for at, kind, value in changes:
        struct.pack_into("<" + kind, content, at, value)
    content += behind
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
    return path


def refusal(path):
    with pytest.raises(DataError) as error:
        read_volume(path)
    text = str(error.value)
    assert text.startswith(f"{path}: found ") and "\n" not in text and "No such file" not in text
    return text


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("form", ["qform", "sform"])
@pytest.mark.parametrize("unit", [0, 2, 2 + 8])  # unknown, millimetres, and seconds beside them
def test_whole_files(tmp_path, name, form, unit):
    volume = read_volume(written(tmp_path / name, (UNITS, "B", unit), form=form))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("form", "changes", "found"),
    [
        # nibabel takes an unknown code for 0, and the other form or none for the place.
        ("qform", [(QFORM, "h", 256)], "the qform_code 256, expected 0 to 5"),
        ("sform", [(SFORM, "h", -1)], "the sform_code -1, expected 0 to 5"),
        ("qform", [(PIXDIM + 4, "f", 0)], "voxel sizes [0.0, 2.0, 2.5], expected lengths above 0"),
        ("qform", [(PIXDIM + 12, "f", -2.5)], "voxel sizes [1.0, 2.0, -2.5]"),
        ("qform", [(PIXDIM, "f", -3)], "pixdim[0] -3, expected 1 or -1"),
        ("qform", [(256, "f", 7)], "a damaged NIfTI header"),  # a quaternion longer than 1
        ("sform", [(UNITS, "B", 5)], "voxel sizes in the unit 5, expected millimetres"),
        ("sform", [(DATATYPE, "h", 7)], "a damaged NIfTI header (data code 7 not recognized"),
        ("sform", [(MAGIC, "4s", b"none")], "no complete NIfTI header"),
        ("sform", [(DIM, "h", 8)], "NIfTI"),
    ],
)
def test_header_that_makes_no_sense(tmp_path, name, form, changes, found):
    assert found in refusal(written(tmp_path / name, *changes, form=form))


@pytest.mark.parametrize(("unit", "millimetres"), [(1, 1000.0), (3, 0.001)])
def test_metres_and_micrometres_are_converted(tmp_path, unit, millimetres):
    volume = read_volume(written(tmp_path / "a.nii", (UNITS, "B", unit), form="sform"))
    np.testing.assert_allclose(volume.affine, np.diag([millimetres] * 3 + [1]) @ AFFINE, rtol=1e-6)


@pytest.mark.parametrize("lengths", [(0, 2, 2.5), (1, -2, 2.5)])
def test_voxel_sizes_beside_an_sform_do_not_matter(tmp_path, lengths):
    changes = [(PIXDIM + 4 * k, "f", length) for k, length in enumerate(lengths, 1)]
    volume = read_volume(written(tmp_path / "a.nii", *changes, form="sform"))
    np.testing.assert_allclose(volume.affine, AFFINE)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_another_size_than_the_header_says(tmp_path, name):
    packed = name.endswith(".gz")
    fewer = refusal(written(tmp_path / name, (DIM + 6, "h", 3)))  # three slices of four
    assert ("12 bytes behind the voxels of shape (2, 3, 3)" if packed else "400 bytes, expected 388") in fewer
    bytes_ = refusal(written(tmp_path / name, (DATATYPE, "h", 2)))
    assert ("24 bytes behind the voxels" if packed else "400 bytes, expected 376") in bytes_
    more = refusal(written(tmp_path / name, (DIM + 6, "h", 5)))
    assert ("a damaged or cut-off file" if packed else "400 bytes, expected 412") in more
    longer = refusal(written(tmp_path / name, behind=b"\0"))
    assert ("1 bytes behind the voxels" if packed else "401 bytes, expected 400") in longer
    huge = [(DIM + 2 + 2 * axis, "h", 32767) for axis in range(3)]
    assert " bytes, expected " in refusal(written(tmp_path / name, *huge))


def test_damaged_gzip(tmp_path):
    path = written(tmp_path / "a.nii.gz")
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-8], whole[: len(whole) // 2], whole[:-6] + b"\1" + whole[-5:], whole + b"x"):
        path.write_bytes(damaged)
        assert "damaged or cut-off" in refusal(path) or "no complete NIfTI header" in refusal(path)
    path.write_bytes(b"not gzip at all" * 50)
    assert "no complete NIfTI header" in refusal(path)


def test_shape_alone_is_judged_alike(tmp_path):
    assert read_shape(written(tmp_path / "a.nii")) == ((2, 3, 4), np.dtype("<i2"))
    with pytest.raises(DataError, match="the qform_code 256"):
        read_shape(written(tmp_path / "b.nii", (QFORM, "h", 256)))


def test_surfaces_and_matrices_are_no_volumes(tmp_path):
    axes = nibabel.cifti2.ScalarAxis(["a", "b"]), nibabel.cifti2.SeriesAxis(0, 1, 4)
    nibabel.save(nibabel.Cifti2Image(np.zeros((2, 4), np.float32), axes), tmp_path / "a.dscalar.nii")
    assert "a file of the kind Cifti2Image, expected NIfTI-1 or NIfTI-2" in refusal(tmp_path / "a.dscalar.nii")

"""A mask lies where its image lies, in programs that read the qform and in those that read the sform."""

import itk
import nibabel
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd

from custom.data import VolumeReader, read_volume, write_volume
from custom.data.volumes import spacing
from custom.transforms import SaveVolumed

GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
SHAPE = (4, 5, 6)
SPACING = np.diag([0.7, 0.8, 2.5, 1])


def placed(rotation, offset=(-120.3, 80.1, 1500.7)):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation, offset
    return affine @ SPACING


def turned(degrees):
    """About the x axis, then about the z axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


RAS, LPS = placed(np.eye(3)), placed(np.diag([-1, -1, 1]))
MIRRORED = placed(turned(20) @ np.diag([-1, 1, 1]))
OBLIQUE, SAGITTAL = placed(turned(20)), placed(np.eye(3)[[2, 0, 1]])
SHEARED = RAS @ np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

# Matrix and code of the sform, matrix and code of the qform.
INPUTS = {
    "alike": (RAS, 1, RAS, 1),
    "lps": (LPS, 1, LPS, 1),
    "oblique": (OBLIQUE, 1, OBLIQUE, 1),
    "left-handed": (MIRRORED, 1, MIRRORED, 1),
    "sagittal": (SAGITTAL, 2, SAGITTAL, 1),
    "different": (OBLIQUE, 2, LPS, 1),
    "template": (RAS, 4, OBLIQUE, 1),
    "sform alone": (RAS, 2, None, 0),
    "sform, other qform of code 0": (RAS, 1, OBLIQUE, 0),
    "qform alone": (None, 0, OBLIQUE, 1),
    "qform, other sform of code 0": (RAS, 0, LPS, 1),
    "none": (None, 0, None, 0),
    "none, though filled in": (OBLIQUE, 0, LPS, 0),
    "sheared": (SHEARED, 1, None, 0),
    "sheared, with a qform": (SHEARED, 1, RAS, 1),
    "identity": (np.eye(4), 2, None, 0),
}


def input_header(name, kind):
    sform, sform_code, qform, qform_code = INPUTS[name]
    header = kind.header_class()
    header.set_data_shape(SHAPE)
    header["pixdim"][1:4] = 0.7, 0.8, 2.5
    if qform is not None:
        header.set_qform(qform, qform_code)
    if sform is not None:
        header.set_sform(sform, sform_code)
    return header


@pytest.fixture(scope="module")
def load():
    """As inference of the liver reads; making it takes longer than using it."""
    read = LoadImaged("image", reader=VolumeReader())
    return Compose([read, EnsureChannelFirstd("image"), Orientationd("image", axcodes="SPL")])


@pytest.fixture
def saved(load, tmp_path):
    def save(source, output_ext=None):
        """What inference of the liver does around its network; the mask is where the image is above 30."""
        item = load({"image": str(source), "id": "mask"})
        item["pred"] = item["image"] > 30
        saver = SaveVolumed("pred", output_dir=str(tmp_path / "out"), output_ext=output_ext)
        Compose([Invertd("pred", transform=load, orig_keys="image", nearest_interp=True), saver])(item)
        (path,) = (tmp_path / "out").iterdir()
        return nibabel.load(path)

    return save


@pytest.mark.parametrize("ending", [".nii", ".NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", INPUTS)
def test_nifti_keeps_both_forms(tmp_path, name, kind, ending, saved):
    header = input_header(name, kind)
    header.set_xyzt_units("mm", "sec")
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    nibabel.save(kind(voxels, None, header), tmp_path / f"image{ending}")
    image, mask = nibabel.load(tmp_path / f"image{ending}"), saved(tmp_path / f"image{ending}")
    np.testing.assert_array_equal(mask.dataobj, voxels > 30)
    assert isinstance(mask, kind) and mask.get_data_dtype() == np.uint8
    for field in GEOMETRY:
        np.testing.assert_array_equal(mask.header[field], image.header[field], field)
    np.testing.assert_array_equal(mask.header["pixdim"][:4], image.header["pixdim"][:4])
    np.testing.assert_array_equal(mask.affine, image.affine)
    if "sheared" not in name and kind is nibabel.Nifti1Image:  # ITK reads no shear
        ours, theirs = (itk.imread(each.get_filename()) for each in (mask, image))
        for key in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_array_equal(np.asarray(getattr(ours, key)()), np.asarray(getattr(theirs, key)()))


@pytest.mark.parametrize(("units", "millimetres"), [("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_nifti_keeps_units(tmp_path, units, millimetres, saved):
    header = input_header("oblique", nibabel.Nifti1Image)
    header.set_xyzt_units(units)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), None, header), tmp_path / "image.nii")
    mask = saved(tmp_path / "image.nii")
    assert mask.header.get_xyzt_units()[0] == units
    np.testing.assert_allclose(mask.affine, OBLIQUE, rtol=1e-6)
    volume = read_volume(tmp_path / "image.nii")
    np.testing.assert_allclose(spacing(volume.affine), np.array([0.7, 0.8, 2.5]) * millimetres, rtol=1e-6)
    assert itk.imread(str(tmp_path / "image.nii")).GetSpacing()[2] == pytest.approx(2.5 * millimetres)


def test_big_endian_and_a_fourth_axis(tmp_path, saved):
    header = nibabel.Nifti1Header(endianness=">")
    image = nibabel.Nifti1Image(np.zeros((*SHAPE, 1), ">i2"), LPS, header)
    image.set_qform(OBLIQUE, 1)
    nibabel.save(image, tmp_path / "image.nii")
    mask = saved(tmp_path / "image.nii")
    assert mask.shape == SHAPE
    for coded in ("get_qform", "get_sform"):
        (ours, our_code), (theirs, their_code) = (getattr(each, coded)(coded=True) for each in (mask, image))
        assert our_code == their_code
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("affine", "codes"),
    [(LPS, (1, 1)), (OBLIQUE, (1, 1)), (MIRRORED, (1, 1)), (SHEARED, (0, 1)), (np.eye(4), (2, 2))],
    ids=["lps", "oblique", "left-handed", "sheared", "identity"],
)
def test_forms_of_what_was_no_nifti(tmp_path, ending, affine, codes, saved):
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    write_volume(tmp_path / f"image{ending}", voxels, affine)
    mask = saved(tmp_path / f"image{ending}", ".nii.gz")
    np.testing.assert_array_equal(mask.dataobj, voxels > 30)
    (qform, qform_code), (sform, sform_code) = mask.get_qform(coded=True), mask.get_sform(coded=True)
    assert (int(mask.header["qform_code"]), sform_code) == codes
    np.testing.assert_allclose(sform, affine, atol=1e-4)
    if qform_code:
        np.testing.assert_allclose(qform, affine, atol=1e-4)
    np.testing.assert_allclose(mask.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)
    assert mask.header.get_xyzt_units()[0] == "mm"


def test_another_place_than_the_files_is_written_as_it_is(tmp_path):
    # As by an override that resamples and does not undo it.
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), RAS), tmp_path / "image.nii")
    for array, affine in ((np.zeros(SHAPE, np.uint8), OBLIQUE), (np.zeros((4, 5, 3), np.uint8), RAS)):
        mask = nibabel.load(write_volume(tmp_path / "mask.nii", array, affine, like=tmp_path / "image.nii"))
        np.testing.assert_allclose(mask.get_sform(), affine, atol=1e-4)
        np.testing.assert_allclose(mask.get_qform(), affine, atol=1e-4)

"""Reading, orientation and refusals of single volumes."""

import gzip
import logging
import sys
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from custom.data import volumes
from custom.data.volumes import (
    Volume,
    VolumeReader,
    align_label,
    read_shape,
    read_volume,
    stem,
    suffix,
    to_canonical,
)
from custom.errors import DataError, find_data_error

ORIENTATIONS = [
    "".join(letters)
    for order in permutations(("RL", "AP", "SI"))
    for letters in product(*order)
]  # fmt: skip


@pytest.fixture
def itk():
    return pytest.importorskip("itk")


def nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def numbered(shape=(4, 5, 6), dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def oblique_affine():
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 0.8, 2.5]
    affine[:3, 3] = [-30, 12, 400]
    return affine


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_of_every_type(tmp_path, dtype, ending):
    array = numbered(dtype=dtype)
    volume = read_volume(nifti(tmp_path / f"a{ending}", array, oblique_affine()))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, oblique_affine(), atol=1e-5)


def test_nifti_scale_big_endian_and_single_frame(tmp_path):
    image = nibabel.Nifti1Image(numbered()[..., None].astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(2.0, -5.0)
    image.to_filename(tmp_path / "a.nii")
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled())[..., 0]
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.shape == (4, 5, 6) and volume.array.dtype.isnative
    np.testing.assert_allclose(volume.array, stored * 2.0 - 5.0)


def test_plane_becomes_one_slice(tmp_path):
    assert read_volume(nifti(tmp_path / "a.nii.gz", numbered((4, 5)))).array.shape == (4, 5, 1)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_itk_formats_agree_with_nifti(tmp_path, itk, ending, dtype):
    # The same object written by ITK in its own format and as NIfTI, the latter read by nibabel.
    image = itk.image_from_array(numbered(dtype=dtype))
    image.SetSpacing([0.7, 0.8, 2.5])
    image.SetOrigin([-30, 12, 400])
    image.SetDirection(itk.matrix_from_array(np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])))
    itk.imwrite(image, str(tmp_path / f"a{ending}"))
    itk.imwrite(image, str(tmp_path / "a.nii"))
    ours, theirs = read_volume(tmp_path / f"a{ending}"), nibabel.load(tmp_path / "a.nii")
    assert ours.array.dtype == dtype
    np.testing.assert_array_equal(ours.array, np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def test_the_fields_that_itk_copies_from_nifti_are_no_damage(tmp_path, itk):
    itk.imwrite(itk.image_from_array(numbered()), str(tmp_path / "a.nii"))
    itk.imwrite(itk.imread(str(tmp_path / "a.nii")), str(tmp_path / "a.mha"))
    assert b"toffset" in (tmp_path / "a.mha").read_bytes()
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, read_volume(tmp_path / "a.nii").array)


def test_type_that_itk_wheels_lack(tmp_path, itk):
    # int64, written by hand: a raw NRRD is a text header, an empty line and the voxels.
    array = numbered((4, 5, 6), np.int64) - 7
    header = "NRRD0004\ntype: int64\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, array.T)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_stack_is_page_row_column(tmp_path, itk, dtype):
    path = tmp_path / "a.tif"
    array = numbered(dtype=dtype)
    itk.imwrite(itk.image_from_array(array), str(path), compression=True)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    assert read_shape(path) == ((4, 5, 6), np.dtype(dtype))


def test_header_alone_gives_the_shape(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", numbered())
    assert read_shape(path) == ((4, 5, 6), np.dtype(np.int16))
    assert read_shape(tmp_path / "a.nrrd") is None


def write_dicom(itk, folder, array, origin=(-10.0, -20.0, 100.0), step=2.5, series="1"):
    folder.mkdir(exist_ok=True)
    uid = "1.2.826.0.1.3680043.2.1125"
    for k, plane in enumerate(array):
        image = itk.image_from_array(plane[None])
        image.SetSpacing([0.7, 0.8, step])
        image.SetOrigin([origin[0], origin[1], origin[2] + step * k])
        tags = image.GetMetaDataDictionary()
        for tag, value in {
            "0008|0060": "CT",
            "0020|000d": f"{uid}.1",
            "0020|000e": f"{uid}.2.{series}",
            "0020|0052": f"{uid}.9",
            "0008|0018": f"{uid}.3.{series}.{k + 1}",
            "0020|0013": str(k + 1),
        }.items():
            tags[tag] = value
        writer = itk.ImageFileWriter[type(image)].New(Input=image)
        writer.SetFileName(str(folder / f"{series}_{(k * 3) % 7}.dcm"))  # names not in the order of the slices
        codec = itk.GDCMImageIO.New()
        codec.KeepOriginalUIDOn()
        writer.SetImageIO(codec)
        writer.Write()
    return folder


def test_dicom_folder(tmp_path, itk):
    array = numbered((5, 6, 8)) - 100
    volume = read_volume(write_dicom(itk, tmp_path / "case", array))
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))
    expected = np.diag([-0.7, -0.8, 2.5, 1.0])
    expected[:3, 3] = [10, 20, 100]  # LPS to RAS
    np.testing.assert_allclose(volume.affine, expected, atol=1e-6)


def test_single_dicom_file_with_and_without_suffix(tmp_path, itk):
    folder = write_dicom(itk, tmp_path / "case", numbered((1, 6, 8)))
    path = folder / "1_0.dcm"
    assert read_volume(path).array.shape == (8, 6, 1)
    path.rename(folder / "IM0001")
    np.testing.assert_array_equal(read_volume(folder / "IM0001").array[..., 0].T, numbered((6, 8)))


def test_dicom_folder_with_a_gap_two_series_or_a_cut_slice(tmp_path, itk):
    gap = write_dicom(itk, tmp_path / "gap", numbered((6, 6, 8)))
    (gap / "1_6.dcm").unlink()  # the third slice
    with pytest.raises(
        DataError, match=r"1_2\.dcm: found 5 mm from 1_3\.dcm to this slice \(from 102\.5 to 107\.5 mm\)"
    ):
        read_volume(gap)
    two = write_dicom(itk, tmp_path / "two", numbered((3, 6, 8)))
    write_dicom(itk, two, numbered((2, 6, 8)), series="2")
    with pytest.raises(DataError, match=r"found 2 DICOM series of (3, 2|2, 3) files"):
        read_volume(two)
    cut = write_dicom(itk, tmp_path / "cut", numbered((3, 6, 8)))
    (cut / "1_3.dcm").write_bytes((cut / "1_3.dcm").read_bytes()[:-10])
    with pytest.raises(DataError, match=r"1_3\.dcm: found 86 bytes of pixel data, expected 96"):
        read_volume(cut)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: found no DICOM file"):
        read_volume(tmp_path / "none")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif"])
def test_file_cut_anywhere_is_refused(tmp_path, itk, ending):
    random = np.random.default_rng(0).integers(0, 255, (6, 40, 50), np.uint8)  # does not compress: every byte counts
    path = tmp_path / f"a{ending}"
    if "nii" in ending:
        nifti(path, random)
    elif ending == ".tif":
        import tifffile

        tifffile.imwrite(path, random, photometric="minisblack", metadata=None)
    else:
        itk.imwrite(itk.image_from_array(random), str(path), compression=True)
    whole = path.read_bytes()
    np.testing.assert_array_equal(np.sort(read_volume(path).array, axis=None), np.sort(random, axis=None))
    for length in [0, 1, 7, 100, len(whole) // 3, len(whole) // 2, len(whole) - 40]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=str(path)) as refusal:
            read_volume(path)
        assert "\n" not in str(refusal.value) and "expected" in str(refusal.value)


def test_damaged_compression_is_refused(tmp_path, itk):
    array = np.random.default_rng(0).integers(0, 9, (6, 40, 50), np.uint8)
    codec = itk.TIFFImageIO.New()
    codec.SetCompressor("LZW")
    writer = itk.ImageFileWriter[itk.Image[itk.UC, 3]].New(Input=itk.image_from_array(array))
    writer.SetFileName(str(tmp_path / "a.tif"))
    writer.SetImageIO(codec)
    writer.SetUseCompression(True)
    writer.Write()
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[60:100] = b"\xff" * 40  # in the first page's strip, which begins at byte 8
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif: found an unreadable file"):
        read_volume(tmp_path / "a.tif")
    nifti(tmp_path / "a.nii.gz", array)
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[len(content) // 2] ^= 0x55
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii\.gz: found a damaged or cut-off file"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".tif"])
def test_header_with_random_bytes_is_read_or_refused(tmp_path, itk, ending):
    rng = np.random.default_rng(3)
    path = tmp_path / f"a{ending}"
    if ending == ".nii":
        nifti(path, numbered(dtype=np.uint8))
    else:
        itk.imwrite(itk.image_from_array(numbered(dtype=np.uint8)), str(path))
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        content = bytearray(whole)
        content[rng.integers(min(len(content), 348))] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_volume(path)
        except DataError:
            refused += 1
    assert 0 < refused < 150


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.array([[[1.0, np.nan]]]), np.eye(4), "1 NaN or infinite voxels"),
        (np.array([[[np.inf, -np.inf]]]), np.eye(4), "2 NaN or infinite voxels"),
        (np.zeros((3, 4, 5, 2), np.int16), np.eye(4), "2 frames"),
        (np.zeros((3, 4, 5), np.complex64), np.eye(4), "type complex64"),
    ],
)
def test_content_that_is_refused(tmp_path, array, affine, message):
    path = nifti(tmp_path / "a.nii.gz", array, affine)
    with pytest.raises(DataError, match=message):
        read_volume(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_affine_that_is_refused(tmp_path, value):
    image = nibabel.Nifti1Image(numbered(), np.eye(4))
    image.header["srow_x"] = [value, 0, 0, 0]
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    content = image.header.binaryblock + b"\0" * 4 + numbered().tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(DataError, match="affine"):
        read_volume(tmp_path / "a.nii")


def test_colours_unknown_endings_and_missing_files_are_refused(tmp_path, itk):
    import tifffile

    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((2, 8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(DataError, match="3 samples per pixel"):
        read_volume(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((8, 9), np.uint8))
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((8, 7), np.uint8), append=True)
    with pytest.raises(DataError, match="equal pages"):
        read_volume(tmp_path / "two.tif")
    (tmp_path / "a.txt").write_text("x" * 200)
    with pytest.raises(DataError, match=r"'\.txt', expected one of \.nii"):
        read_volume(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file"):
        read_volume(tmp_path / "b.nii")


def test_big_tiff_and_tiles(tmp_path, itk):
    import tifffile

    array = np.random.default_rng(0).integers(0, 60000, (3, 40, 33), np.uint16)
    tifffile.imwrite(tmp_path / "big.tif", array, bigtiff=True, byteorder=">", photometric="minisblack")
    np.testing.assert_array_equal(read_volume(tmp_path / "big.tif").array, array)
    tifffile.imwrite(tmp_path / "tiles.tif", array, tile=(16, 16), photometric="minisblack")
    assert read_shape(tmp_path / "tiles.tif") == ((3, 40, 33), np.dtype(np.uint16))
    whole = (tmp_path / "tiles.tif").read_bytes()
    (tmp_path / "tiles.tif").write_bytes(whole[:-100])
    with pytest.raises(DataError, match="ends before its pages do"):
        read_shape(tmp_path / "tiles.tif")


def test_every_format_is_read_without_itk(tmp_path, itk, monkeypatch):
    nifti(tmp_path / "a.nii", numbered())
    for ending in (".nrrd", ".mha", ".tif"):
        itk.imwrite(itk.image_from_array(numbered()), str(tmp_path / f"a{ending}"))
    monkeypatch.setitem(sys.modules, "itk", None)  # makes "import itk" fail
    assert read_volume(tmp_path / "a.nii").array.shape == (4, 5, 6)
    assert [read_volume(tmp_path / f"a{end}").array.shape for end in (".nrrd", ".mha", ".tif")] == [
        *((6, 5, 4), (6, 5, 4), (4, 5, 6))
    ]


def test_vector_image_is_refused(tmp_path, itk):
    image = itk.image_from_array(np.zeros((4, 5, 6, 3), np.float32), is_vector=True)
    itk.imwrite(image, str(tmp_path / "a.mha"))
    with pytest.raises(DataError, match="3 values per voxel"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_canonical_keeps_every_voxel_in_its_place(orientation):
    affine = np.diag([0.5, 0.6, 3.0, 1.0])
    affine[:3, 3] = [7, -8, 9]
    array = numbered()
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(orientation)))
    volume = Volume(apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape))
    canonical = to_canonical(volume)
    assert "".join(nibabel.aff2axcodes(canonical.affine)) == "SPL"
    assert canonical.array.flags.c_contiguous
    for index in [(0, 0, 0), (5, 4, 3), (2, 1, 3)]:
        world = canonical.affine @ [*index, 1]
        i, j, k = np.rint(np.linalg.solve(affine, world)[:3]).astype(int)
        assert canonical.array[index] == array[i, j, k]


def test_oblique_volume_is_oriented_without_interpolation():
    volume = Volume(numbered(), oblique_affine())
    canonical = to_canonical(volume)
    assert canonical.array.shape == (6, 5, 4)
    np.testing.assert_array_equal(np.unique(canonical.array), np.unique(volume.array))
    np.testing.assert_allclose(volumes.spacing(canonical.affine), [2.5, 0.8, 0.7])


def test_label_on_the_same_grid_is_turned_to_the_image(caplog):
    affine = np.diag([0.5, 0.6, 3.0, 1.0])
    image, label = Volume(numbered(), affine), Volume(numbered() % 3, affine)
    for orientation in ORIENTATIONS:
        turned = to_canonical(label, orientation)
        np.testing.assert_array_equal(align_label(image, turned, "label"), label.array)
    assert not caplog.records


def test_label_with_another_affine_keeps_array_order_with_a_warning(caplog):
    image, label = Volume(numbered(), np.diag([0.5, 0.5, 3.0, 1.0])), Volume(numbered() % 3, np.eye(4))
    # The farthest corner: (5 - 1) voxels of 1 mm are 8 of 0.5 mm, 4 farther.
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(align_label(image, label, "seg.nii"), label.array)
    assert "seg.nii: its affine differs from the image's by up to 4.0 voxels" in caplog.text
    with pytest.raises(DataError, match=r"seg.nii: found shape \(4, 5, 7\), expected the image's shape \(4, 5, 6\)"):
        align_label(image, Volume(numbered((4, 5, 7)), np.eye(4)), "seg.nii")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/volume-3.nii.gz", ("volume-3", ".nii.gz")),
        ("B.TIF", ("B", ".tif")),
        ("x.y.mha", ("x.y", ".mha")),
        ("1.2.840.5/", ("1.2.840.5", "")),
        ("gs://bucket/a.nii", ("a", ".nii")),
    ],
)
def test_names(name, expected):
    assert (stem(name), suffix(name)) == expected


def test_monai_loader_reads_through_it(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", numbered(), oblique_affine())
    load = LoadImaged(keys="image", reader=VolumeReader(), ensure_channel_first=True)
    image = load({"image": str(path)})["image"]
    assert isinstance(image, MetaTensor) and image.shape == (1, 4, 5, 6)
    np.testing.assert_allclose(image.affine.numpy(), oblique_affine(), atol=1e-5)
    assert image.meta["filename_or_obj"] == str(path)
    np.testing.assert_array_equal(image[0].numpy(), numbered())


def test_monai_loader_does_not_fall_back_to_a_reader_that_accepts_a_cut_file(tmp_path, itk):
    path = nifti(tmp_path / "a.nii", numbered((30, 30, 30)))
    path.write_bytes(path.read_bytes()[:-1000])
    assert LoadImaged(keys="image", reader="ITKReader")({"image": str(path)})["image"].shape  # what must not happen
    with pytest.raises(Exception, match=r"a\.nii") as refusal:
        LoadImaged(keys="image", reader=VolumeReader())({"image": str(path)})
    assert isinstance(find_data_error(refusal.value), DataError)


@pytest.mark.parametrize("name", ["ct512", "ct3mm"])
def test_real_liver_lies_at_the_left_of_an_upright_slice(real_liver, name):
    image = read_volume(real_liver / f"{name}_image.nii.gz")
    label = read_volume(real_liver / f"{name}_liver.nii.gz")
    assert "".join(nibabel.aff2axcodes(image.affine)) == {"ct512": "LPS", "ct3mm": "RAS"}[name]
    oriented, liver = to_canonical(image), to_canonical(label)
    _, _, columns = np.argwhere(liver.array).mean(0) / liver.array.shape
    assert columns < 0.4
    # The spine is the densest thing near the middle column, and lies behind: in the lower half of the picture.
    middle = oriented.array[:, :, int(oriented.array.shape[2] * 0.4) : int(oriented.array.shape[2] * 0.6)]
    assert np.argwhere(middle > 400)[:, 1].mean() > middle.shape[1] / 2
    assert oriented.array[liver.array == 1].mean() == pytest.approx({"ct512": 89.3, "ct3mm": 45.3}[name], abs=0.05)


def test_gz_that_is_not_nifti(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"hello" * 100))
    with pytest.raises(DataError, match="no complete NIfTI header"):
        read_volume(tmp_path / "a.nii.gz")

"""DICOM: what is one volume is read right and placed by its tags; what is not is refused by the file that differs."""

import logging

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from custom.data import read_volume
from custom.data.dicom import holds_volume, is_dicom, read_dicom
from custom.errors import DataError

from .dicom_writer import (
    BIG,
    CAPTURE,
    DEFLATED,
    DOSE_REPORT,
    ENHANCED_CT,
    EXPLICIT,
    IMPLICIT,
    SEGMENTATION,
    slice_tags,
    write,
    write_series,
)

HU = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 7))
"""Slices, rows, columns."""
AXES = HU.transpose(2, 1, 0)
"""As a volume has them: columns, rows, slices."""
AFFINE = np.array([[-0.7, 0, 0, 16], [0, -0.8, 0, 20], [0, 0, 3, 0], [0, 0, 0, 1]])
"""LPS to RAS."""


def only(number, **changes):
    """Changes of one slice."""
    return lambda k: changes if k == number else {}


def check(path, array=AXES, affine=AFFINE):
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-9)
    return volume


def check_refused(path, *parts):
    with pytest.raises(DataError) as refusal:
        read_volume(path)
    message = str(refusal.value)
    assert "\n" not in message and ": found " in message and ", expected " in message
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize(
    ("syntax", "preamble"),
    [
        (EXPLICIT, True),
        (IMPLICIT, True),
        (BIG, True),
        (EXPLICIT, False),
        (IMPLICIT, False),
        (BIG, False),
    ],
)
def test_encodings_with_and_without_the_first_part_of_the_file(tmp_path, syntax, preamble):
    folder = write_series(tmp_path / "a", HU, name="{}", syntax=syntax, preamble=preamble)
    assert all(is_dicom(file) for file in folder.iterdir())
    check(folder)


def test_files_in_any_order_and_either_direction(tmp_path):
    for k, name in enumerate("daebfc"):
        write(tmp_path / "a" / name, slice_tags(HU[k], k))
        write(tmp_path / "b" / name, slice_tags(HU[k], k, ImagePositionPatient=(-16, -20, -3 * k)))
    check(tmp_path / "a")
    lower = AFFINE.copy()
    lower[2, 3] = -15
    check(tmp_path / "b", AXES[..., ::-1], lower)


def test_tilted_gantry_stays_in_the_affine(tmp_path):
    folder = write_series(tmp_path / "a", HU, lambda k: {"ImagePositionPatient": (-16, -20 + 1.1 * k, 3 * k)})
    tilted = AFFINE.copy()
    tilted[:3, 2] = 0, -1.1, 3
    check(folder, affine=tilted)


def test_other_directions(tmp_path):
    # Coronal: rows go down, slices to the front: the normal is (1, 0, 0) x (0, 0, -1) = (0, 1, 0), to the back.
    def coronal(k):
        return {"ImageOrientationPatient": (1, 0, 0, 0, 0, -1), "ImagePositionPatient": (-16, -2 * k, 30)}

    affine = np.array([[-0.7, 0, 0, 16], [0, 0, -2, 10], [0, -0.8, 0, 30], [0, 0, 0, 1]])
    check(write_series(tmp_path / "a", HU, coronal), AXES[..., ::-1], affine)
    # Feet first and prone: rows to the left become rows to the right, columns to the front, slices still upwards.
    turned = {"ImageOrientationPatient": (-1, 0, 0, 0, -1, 0)}
    check(
        write_series(tmp_path / "b", HU, lambda k: turned),
        affine=AFFINE * [[-1, 1, 1, 1], [1, -1, 1, 1], [1] * 4, [1] * 4],
    )
    # A flip within the plane turns the normal: the same voxels, slices downwards.
    flipped = {"ImageOrientationPatient": (0, 1, 0, 1, 0, 0)}
    volume = read_volume(write_series(tmp_path / "c", HU, lambda k: flipped))
    np.testing.assert_array_equal(volume.array, AXES[..., ::-1])
    np.testing.assert_allclose(volume.affine[:3, :3], [[0, -0.8, 0], [-0.7, 0, 0], [0, 0, -3]], atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            only(5, ImageOrientationPatient=(1, 0, 0, 0, 0, -1)),
            ("IM0005.dcm: found ImageOrientationPatient 1 0 0 0 0 -1",),
        ),
        (only(0, ImageOrientationPatient=(0, 1, 0, 1, 0, 0)), ("IM0000.dcm: found ImageOrientationPatient",)),
        (only(2, ImageOrientationPatient=(1, 0, 0, 0, 2, 0)), ("IM0002.dcm", "two directions of length 1")),
        (only(2, ImageOrientationPatient=None), ("IM0002.dcm: found ImageOrientationPatient absent",)),
        (only(2, PixelSpacing=(0.8, 0.8)), ("IM0002.dcm: found PixelSpacing 0.8 0.8, expected 0.8 0.7",)),
        (only(2, PixelSpacing=(0.8, 0)), ("IM0002.dcm: found PixelSpacing 0.8 0",)),
        (only(2, PixelSpacing=None), ("IM0002.dcm: found PixelSpacing absent",)),
        (only(3, ImagePositionPatient=None), ("IM0003.dcm: found ImagePositionPatient absent",)),
        (only(3, ImagePositionPatient="1\\2"), ("IM0003.dcm: found ImagePositionPatient", "3 finite numbers")),
        (only(3, ImagePositionPatient="1\\2\\x"), ("IM0003.dcm",)),
        (only(3, ImagePositionPatient="1\\2\\nan"), ("IM0003.dcm", "3 finite numbers")),
        (only(2, ImagePositionPatient=(-16, -20, 3)), ("IM0002.dcm: found the position of IM0001.dcm again (3 mm",)),
        (only(3, ImagePositionPatient=(-13, -20, 9)), ("IM0003.dcm: found a position 3 mm beside the line",)),
        (only(3, ImagePositionPatient=(-16, -20, 10)), ("found 4 mm from IM0002.dcm to this slice", "3 mm apart")),
        (only(4, SOPClassUID=CAPTURE, ImagePositionPatient=None), ("IM0004.dcm: found ImagePositionPatient absent",)),
        (only(1, Modality="MR"), ("IM0001.dcm: found modality MR, expected CT as 5 other slices",)),
        (only(1, SeriesInstanceUID=None), ("found 2 DICOM series of 5, 1 files", "IM0001.dcm")),
        (only(1, SeriesInstanceUID="1.5"), ("found 2 DICOM series of 5, 1 files", "IM0001.dcm")),
        (only(1, NumberOfFrames=2, PixelData=np.zeros((2, 5, 7), int)), ("IM0001.dcm, frame 1: found ImagePosition",)),
        (only(1, NumberOfFrames=-1), ("IM0001.dcm: found NumberOfFrames -1",)),
        (only(1, PhotometricInterpretation="MONOCHROME1"), ("IM0001.dcm: found MONOCHROME1",)),
        (only(1, SamplesPerPixel=3, PhotometricInterpretation="RGB"), ("IM0001.dcm: found RGB of 3 samples",)),
        (only(1, BitsStored=12), ("IM0001.dcm: found BitsAllocated 16, BitsStored 12, HighBit 15",)),
        (only(1, PixelRepresentation=None), ("IM0001.dcm",)),
        (only(1, RescaleSlope=0), ("IM0001.dcm: found RescaleSlope 0",)),
        (only(1, Rows=None), ("IM0001.dcm: found no Rows",)),
        (lambda k: {"Rows": 4}, ("IM0000.dcm", "70 bytes of pixel data, expected 56")),
        (only(1, PixelData=None), ("IM0001.dcm: found no pixel data",)),
        (only(1, PixelData=bytes(68)), ("IM0001.dcm", "68 bytes of pixel data, expected 70")),
    ],
)
def test_a_slice_that_differs_is_named(tmp_path, changes, parts):
    check_refused(write_series(tmp_path / "a", HU, changes), *parts)


def test_another_size_a_missing_slice_and_a_copy(tmp_path):
    folder = write_series(tmp_path / "a", HU)
    write(folder / "IM0002.dcm", slice_tags(HU[2][:4], 2))
    check_refused(folder, "IM0002.dcm: found size (4, 7), expected (5, 7) as 5 other slices")
    (folder / "IM0002.dcm").unlink()
    check_refused(folder, "IM0003.dcm: found 6 mm from IM0001.dcm to this slice (from 3 to 9 mm)")
    write(folder / "IM0002.dcm", slice_tags(HU[2], 2))
    write(folder / "copy.dcm", slice_tags(HU[2], 2))
    check_refused(folder, "copy.dcm: found the position of IM0002.dcm again")


def test_rounded_positions_are_even(tmp_path):
    folder = write_series(tmp_path / "a", HU, lambda k: {"ImagePositionPatient": (-16, -20, round(0.625 * k, 1))})
    np.testing.assert_allclose(read_volume(folder).affine[2, 2], 0.62, atol=1e-9)  # 3.1 mm in 5 steps
    folder = write_series(tmp_path / "b", HU, only(3, ImagePositionPatient=(-16, -20, 9.2)))
    check(folder)


def test_every_slice_has_its_own_scale(tmp_path):
    folder = write_series(tmp_path / "a", HU, lambda k: {"RescaleSlope": k + 1, "RescaleIntercept": -1024 * (k + 1)})
    check(folder, AXES * np.arange(1, 7))
    halves = {"RescaleSlope": 0.5, "RescaleIntercept": "-512.0"}
    assert check(write_series(tmp_path / "b", HU, lambda k: halves), AXES / 2).array.dtype == np.float32
    low = {"PixelRepresentation": 0, "RescaleIntercept": -32768}  # all 16 bits fit, not on the way there
    assert check(write_series(tmp_path / "d", HU, lambda k: low), AXES + 1024 - 32768).array.dtype == np.int16
    bare = {"RescaleSlope": None, "RescaleIntercept": None}
    check(write_series(tmp_path / "c", HU, lambda k: bare), AXES + 1024)


@pytest.mark.parametrize("signed", [0, 1])
def test_only_the_stored_bits_count(tmp_path, signed):
    overlay = np.random.default_rng(1).integers(0, 16, HU.shape) << 12

    def twelve_bits(k):
        offset = 0 if signed else 1024
        tags = {"PixelData": (HU[k] + offset & 0xFFF) | overlay[k], "RescaleIntercept": -offset}
        return {**tags, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": signed}

    volume = check(write_series(tmp_path / "a", HU, twelve_bits))
    assert volume.array.dtype == np.int16


def test_bytes_are_pixels_too(tmp_path):
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "RescaleIntercept": 0}
    values = HU & 0xFF
    folder = write_series(
        tmp_path / "a", HU, lambda k: {**eight, "PixelData": values[k].astype("u1").tobytes() + b"\0"}
    )
    check(folder, values.transpose(2, 1, 0))


def test_what_is_no_slice_is_left_out_and_named(tmp_path, caplog):
    folder = write_series(tmp_path / "a", HU)
    write(
        folder / "report",
        slice_tags(HU[0], SOPClassUID=DOSE_REPORT, PixelData=None, Rows=None, SeriesInstanceUID="1.8"),
    )
    write(folder / "scout.dcm", slice_tags(HU[0], ImageType="ORIGINAL\\PRIMARY\\LOCALIZER"))
    write(folder / "seg.dcm", slice_tags(HU[0], SOPClassUID=SEGMENTATION))
    shot = {"SOPClassUID": CAPTURE, "ImagePositionPatient": None, "SeriesInstanceUID": "1.9"}
    write(folder / "shot.dcm", slice_tags(HU[0], **shot))
    (folder / "README.txt").write_text("exported")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    with caplog.at_level(logging.WARNING):
        check(folder)
    (message,) = caplog.messages
    assert (
        "4 of 10 DICOM files are left out: report (X-Ray Radiation Dose SR), scout.dcm (localizer), seg.dcm" in message
    )
    assert not holds_volume([folder / "report", folder / "scout.dcm"])
    assert holds_volume([folder / "report", folder / "IM0000.dcm"])
    check_refused(folder / "seg.dcm", "no image (seg.dcm: Segmentation)")
    check_refused(folder / "report", "no image")


def test_empty_and_cut_files_are_not_passed_over(tmp_path):
    folder = write_series(tmp_path / "a", HU[:3], name="{}")
    whole = (folder / "2").read_bytes()
    for length in range(132, len(whole), 7):
        (folder / "2").write_bytes(whole[:length])
        check_refused(folder, str(folder / "2"))
    (folder / "2").write_bytes(b"")
    check_refused(folder, f"{folder / '2'}: found an empty file")
    (folder / "2").rename(folder / "2.dcm")
    (folder / "2.dcm").write_bytes(b"no DICOM at all")
    check_refused(folder, str(folder / "2.dcm"))
    (tmp_path / "none").mkdir()
    check_refused(tmp_path / "none", "no DICOM file")


@pytest.mark.parametrize("lost", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_series_without_places_is_refused(tmp_path, lost):
    folder = write_series(tmp_path / "a", HU, lambda k: {lost: None})
    check_refused(folder, f"IM0000.dcm: found {lost} absent, expected a slice with position, orientation and spacing")


def test_a_series_without_identifiers_is_one_series(tmp_path):
    check(write_series(tmp_path / "a", HU, lambda k: {"SeriesInstanceUID": None, "SOPClassUID": None}))


def enhanced(order, changes=lambda k: {}, **tags):
    """Tags of an enhanced CT with the slices in this order, each with its own slope."""
    frames = [
        {
            "PlanePositionSequence": [{"ImagePositionPatient": (-16, -20, 3 * k)}],
            "PixelValueTransformationSequence": [{"RescaleSlope": k + 1, "RescaleIntercept": -1024 * (k + 1)}],
            **changes(k),
        }
        for k in order
    ]
    shared = {
        "PlaneOrientationSequence": [{"ImageOrientationPatient": (1, 0, 0, 0, 1, 0)}],
        "PixelMeasuresSequence": [{"PixelSpacing": (0.8, 0.7)}],
    }
    whole = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"))
    whole |= {"RescaleIntercept": None, "SOPClassUID": ENHANCED_CT, "NumberOfFrames": len(order)}
    whole |= {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    return slice_tags(HU[list(order)], **{**whole, **tags})


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_frames_of_one_file_are_placed_by_their_own_tags(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", enhanced([3, 1, 0, 5, 4, 2]), syntax)
    check(path, AXES * np.arange(1, 7))


@pytest.mark.parametrize(
    ("tags", "parts"),
    [
        (enhanced([0, 1, 2, 4, 5]), ("a.dcm, frame 4: found 6 mm from a.dcm, frame 3",)),
        (enhanced([0, 1, 2, 2, 3]), ("a.dcm, frame 4: found the position of a.dcm, frame 3 again",)),
        (
            enhanced(
                range(6),
                only(4, PlaneOrientationSequence=[{"ImageOrientationPatient": (1, 0, 0, 0, 0, -1)}]),
            ),
            ("a.dcm, frame 5: found ImageOrientationPatient 1 0 0 0 0 -1",),
        ),
        (enhanced(range(6), only(4, PlanePositionSequence=[{}])), ("frame 5: found ImagePositionPatient absent",)),
        (enhanced(range(6), NumberOfFrames=5), ("6 functional groups, expected one for each of 5 frames",)),
        (enhanced(range(6), PixelData=HU[:5]), ("bytes of pixel data",)),
    ],
)
def test_frames_that_are_no_volume(tmp_path, tags, parts):
    check_refused(write(tmp_path / "a.dcm", tags), *parts)


def test_frames_without_places(tmp_path):
    tags = enhanced(range(6), SharedFunctionalGroupsSequence=None, PerFrameFunctionalGroupsSequence=None)
    check_refused(write(tmp_path / "a.dcm", tags), "a.dcm, frame 1: found ImagePositionPatient absent")


CODERS = {
    uid.RLELossless: None,
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLosslessSV1: lambda plane: imagecodecs.ljpeg_encode(plane, bitspersample=16),
    uid.JPEG2000Lossless: lambda plane: imagecodecs.jpeg2k_encode(plane, reversible=True, level=0, codecformat="j2k"),
    uid.HTJ2KLossless: lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
}


def compress(path, syntax, values):
    """Rewrite a file with its pixels compressed."""
    dataset = pydicom.dcmread(path)
    if syntax == uid.RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.PixelData = encapsulate([CODERS[syntax](np.ascontiguousarray(values.astype(np.uint16)))])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)


@pytest.mark.parametrize("syntax", CODERS, ids=lambda syntax: syntax.name.split(",")[0])
@pytest.mark.parametrize("signed", [0, 1])
def test_compressed_pixels(tmp_path, syntax, signed):
    offset = 0 if signed else 1024
    stored = HU + offset & 0xFFF
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": signed, "RescaleIntercept": -offset}
    folder = write_series(tmp_path / "a", HU, lambda k: {**tags, "PixelData": stored[k]})
    for k, path in enumerate(sorted(folder.iterdir())):
        compress(path, syntax, stored[k])
    check(folder)
    whole = path.read_bytes()
    for length in (len(whole) - 20, len(whole) * 2 // 3):
        path.write_bytes(whole[:length])
        check_refused(folder, path.name)


@pytest.mark.parametrize("compression", ["JPEG", "JPEG2000"])
def test_files_that_gdcm_compressed(tmp_path, compression):
    itk = pytest.importorskip("itk")
    plane = np.random.default_rng(2).integers(-1000, 1000, (33, 47)).astype(np.int16)  # GDCM fails to write tiny ones
    image = itk.image_from_array(plane[None])
    image.SetSpacing([0.7, 0.8, 3.0])
    image.SetOrigin([-16.0, -20.0, 0.0])
    image.GetMetaDataDictionary()["0008|0060"] = "CT"
    codec = itk.GDCMImageIO.New()
    codec.SetCompressionType(getattr(itk.GDCMImageIOEnums, f"Compression_{compression}"))
    writer = itk.ImageFileWriter[type(image)].New(Input=image, FileName=str(tmp_path / "a.dcm"))
    writer.SetImageIO(codec)
    writer.SetUseCompression(True)
    writer.Write()
    volume = read_volume(tmp_path / "a.dcm")
    np.testing.assert_array_equal(volume.array[..., 0], plane.T)
    np.testing.assert_allclose(volume.affine[:3, [0, 1, 3]], AFFINE[:3, [0, 1, 3]], atol=1e-9)


def test_bytes_behind_the_pixels(tmp_path):
    path = write(tmp_path / "a.dcm", slice_tags(HU[0]))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(64))  # a block filled up with zeros
    np.testing.assert_array_equal(read_volume(path).array, AXES[..., :1])
    path.write_bytes(whole + b"\1\2\3\4")
    check_refused(path, "4 bytes after its pixel data")


def test_a_number_in_another_representation(tmp_path):
    path = write(tmp_path / "a.dcm", slice_tags(HU[0]))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x28\x00\x53\x10DS", b"\x28\x00\x53\x10US"))
    check_refused(path, "a.dcm: found RescaleSlope as US, expected DS")


def test_a_deflated_file_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", slice_tags(HU[0]), DEFLATED)
    check_refused(path, "a.dcm: found the transfer syntax Deflated")


def test_an_unknown_compression_is_refused_by_its_name(tmp_path):
    path = write(tmp_path / "a.dcm", slice_tags(HU[0]), syntax="1.2.840.10008.1.2.4.102")
    check_refused(path, "a.dcm: found the transfer syntax MPEG-4")


def test_a_sheared_affine_through_transforms_and_back_to_a_file(tmp_path):
    from monai.data import MetaTensor
    from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd

    from custom.data import VolumeReader
    from custom.transforms import SaveVolumed

    folder = write_series(tmp_path / "a", HU, lambda k: {"ImagePositionPatient": (-16, -20 + 1.1 * k, 3 * k)})
    load = Compose(
        [
            LoadImaged("image", reader=VolumeReader()),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="SPL"),
        ]
    )
    item = load({"image": str(folder), "id": "a"})
    array, affine = read_dicom(folder)
    # Slices upwards, rows to the back, columns to the left, each with the voxel's own place.
    np.testing.assert_array_equal(item["image"][0], HU)
    index = np.array([4, 2, 3, 1])  # slice, row, column
    place = affine @ index[[2, 1, 0, 3]]
    np.testing.assert_allclose(np.asarray(item["image"].affine) @ index, place, atol=1e-6)
    item["pred"] = MetaTensor(item["image"].as_tensor(), meta=item["image"].meta)
    item = Invertd("pred", load, orig_keys="image", to_tensor=True)(item)
    SaveVolumed("pred", output_dir=str(tmp_path / "out"), dtype="int16")(item)
    written = read_volume(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(written.array, array)
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    header = nibabel.load(tmp_path / "out" / "a.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)  # a qform holds no shear


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"II*\x00" * 40, b"\x89PNG", b"some text, and more of it" * 9])
def test_other_files_are_no_dicom(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom(tmp_path / "a")


def test_jpeg_that_ends_early(tmp_path):
    plane = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "RescaleIntercept": 0}
    dataset = pydicom.dcmread(write(tmp_path / "plain.dcm", slice_tags(plane.astype(int), **bits)))
    whole = bytes(imagecodecs.jpeg8_encode(plane, level=100))
    for code in (whole, whole[: len(whole) // 2]):
        dataset.PixelData = encapsulate([code])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        dataset.save_as(tmp_path / "a.dcm")
        if code == whole:
            np.testing.assert_allclose(read_volume(tmp_path / "a.dcm").array[..., 0].T, plane, atol=2)
        else:
            check_refused(tmp_path / "a.dcm", "a.dcm: found JPEG Baseline", "pixels that end early")


@pytest.mark.parametrize(
    "damaged", [b"", bytes(54), bytes(128) + b"DIcM\2\0"], ids=["empty", "cut off", "another mark"]
)
def test_a_slice_that_is_no_longer_known_as_dicom(tmp_path, damaged):
    write_series(tmp_path / "a", HU, name="IM{:04d}")
    (tmp_path / "a" / "VERSION").write_text("2\n")  # of another kind
    check(tmp_path / "a")
    (tmp_path / "a" / "IM0005").write_bytes(damaged)  # the last one, so that no gap tells
    reason = "a file that is cut off or damaged at its beginning" if damaged else "an empty file"
    check_refused(tmp_path / "a", f"IM0005: found {reason}")

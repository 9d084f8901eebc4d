"""MetaImage and NRRD: read as SimpleITK does, or refused for the true reason."""

import gzip
import zlib

import itk
import nibabel
import numpy as np
import pytest

from custom.data.volumes import read_volume
from custom.errors import DataError

VOXELS = np.arange(24, dtype="<i2")
RAW = VOXELS.tobytes()
ARRAY = VOXELS.reshape(2, 3, 4).T

METAIMAGE = {
    "ObjectType": "Image",
    "NDims": "3",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "ElementSpacing": "1 2 3",
    "DimSize": "4 3 2",
    "ElementType": "MET_SHORT",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 3 2",
    "encoding": "raw",
    "endian": "little",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "space origin": "(1,2,3)",
}
LPS = np.array([[-1, 0, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1.0]])
"""The affine of both in RAS."""


def metaimage(path, data=RAW, file="LOCAL", **fields):
    lines = [f"{key} = {value}\n" for key, value in {**METAIMAGE, **fields}.items() if value is not None]
    path.write_bytes("".join([*lines, f"ElementDataFile = {file}\n"]).encode() + data)
    return path


def nrrd(path, data=RAW, more="", **fields):
    fields = {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}\n" for key, value in {**NRRD, **fields}.items() if value is not None]
    path.write_bytes("".join(["NRRD0004\n", *lines, more, "\n"]).encode() + data)
    return path


def write(folder, kind, *args, **fields):
    return (metaimage if kind == "mha" else nrrd)(folder / f"a.{kind}", *args, **fields)


def check(path, affine=LPS, array=ARRAY):
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-12)
    assert volume.array.flags.writeable


def refusal(path, name=None):
    with pytest.raises(DataError) as error:
        read_volume(path)
    assert str(error.value).startswith(f"{path}: found ") and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("mha", {}),
        ("mha", {"BinaryDataByteOrderMSB": "False", "CompressedData": "False", "HeaderSize": "-1"}),
        ("mha", {"Offset": None, "Origin": "1 2 3"}),
        ("mha", {"ElementSpacing": None, "ElementSize": "1 2 3"}),
        ("mha", {"ElementSize": "5 5 5", "Comment": "a = b: c", "AnatomicalOrientation": "RAI"}),
        ("mha", {"0008|0060": "CT", "ITK_InputFilterName": "NrrdImageIO", "my note": "x = y"}),  # of programs
        ("mha", {"ElementNumberOfChannels": "1", "ElementToIntensityFunctionSlope": "1.0", "DistanceUnits": "mm"}),
        ("nrrd", {}),
        ("nrrd", {"space": "LPS", "kinds": "domain domain domain", "space_units": '"mm" "mm" "mm"'}),
        ("nrrd", {"space": None, "space_dimension": "3", "content": "a: b"}),
        ("nrrd", {"type": "signed short int", "endian": "LITTLE", "more": "# a comment\na:=b: c\n"}),
    ],
)
def test_fields_that_say_the_same(tmp_path, kind, fields):
    check(write(tmp_path, kind, **fields))


@pytest.mark.parametrize(
    ("kind", "fields", "affine"),
    [
        # The rows of TransformMatrix are the axes: the first runs to the patient's back, the second upwards.
        ("mha", {"TransformMatrix": "0 1 0 0 0 1 1 0 0"}, [[0, 0, -3, -1], [-1, 0, 0, -2], [0, 2, 0, 3], [0, 0, 0, 1]]),
        (
            "mha",
            {"TransformMatrix": "1 0 0 .5 1 0 0 0 1"},
            [[-1, -1, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3], [0] * 3 + [1]],
        ),
        ("mha", {"ElementSpacing": "-1 2 3"}, LPS * [-1, 1, 1, 1]),
        ("mha", {"ElementSpacing": None, "Offset": None, "TransformMatrix": None}, np.diag([-1, -1, 1, 1])),
        ("nrrd", {"space": "right-anterior-superior"}, np.diag([-1, -1, 1, 1]) @ LPS),
        ("nrrd", {"space": "LAS"}, np.diag([1, -1, 1, 1]) @ LPS),
        ("nrrd", {"space_origin": None}, LPS * [1, 1, 1, 0] + np.diag([0, 0, 0, 1])),
        (
            "nrrd",
            {"space_directions": "(0,1,0) (0,.5,2) (3,0,0)"},
            [[0, 0, -3, -1], [-1, -0.5, 0, -2], [0, 2, 0, 3], [0, 0, 0, 1]],
        ),
        (
            "nrrd",
            {"space": None, "space_directions": None, "space_origin": None, "spacings": "1 2 nan"},
            np.diag([-1, -2, 1, 1]),
        ),
    ],
)
def test_geometry(tmp_path, kind, fields, affine):
    check(write(tmp_path, kind, **fields), np.array(affine, float))


@pytest.mark.parametrize(
    ("kind", "data", "fields"),
    [
        ("mha", zlib.compress(RAW), {"CompressedData": "True"}),
        ("mha", zlib.compress(RAW), {"CompressedData": "True", "CompressedDataSize": "5"}),  # the stream itself decides
        ("mha", VOXELS.astype(">i2").tobytes(), {"ElementByteOrderMSB": "True"}),
        ("nrrd", gzip.compress(RAW), {"encoding": "gzip"}),
        ("nrrd", gzip.compress(RAW[:9]) + gzip.compress(RAW[9:]), {"encoding": "gz"}),
        ("nrrd", VOXELS.astype(">i2").tobytes(), {"endian": "big"}),
        ("nrrd", b"ab" + RAW, {"byte_skip": "2"}),
        ("nrrd", b"ab" + RAW, {"byte_skip": "-1"}),
        ("nrrd", RAW, {"dimension": "4", "sizes": "1 4 3 2", "kinds": "list domain domain domain",
                       "space_directions": "none (1,0,0) (0,2,0) (0,0,3)"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # gzip's bytes hold the time
)  # fmt: skip
def test_encodings(tmp_path, kind, data, fields):
    check(write(tmp_path, kind, data, **fields))


@pytest.mark.parametrize("kind", ["mha", "nrrd"])
def test_every_flipped_bit_of_a_stream_is_seen_or_changes_nothing(tmp_path, kind):
    data = (zlib if kind == "mha" else gzip).compress(RAW)
    fields = {"CompressedData": "True"} if kind == "mha" else {"encoding": "gzip"}
    read = 0
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 4
        path = write(tmp_path, kind, bytes(damaged), **fields)
        try:
            check(path)
            read += 1
        except DataError as error:
            assert str(error).startswith(f"{path}: found ")
    assert read <= 7  # the time and the system in gzip's header
    for damaged in (data[:-1], data + b"x", data[:10], b""):
        refusal(write(tmp_path, kind, damaged, **fields))


@pytest.mark.parametrize("kind", ["mha", "nrrd"])
@pytest.mark.parametrize("data", [RAW[:-1], RAW + b"\n", b""])
def test_raw_voxels_are_exactly_as_many_as_promised(tmp_path, kind, data):
    assert f"found {len(data)} bytes of voxels, expected 48" in refusal(write(tmp_path, kind, data))


@pytest.mark.parametrize(
    ("kind", "fields", "found"),
    [
        ("mha", {"ElementNumberOfChannels": "2"}, "2 values per voxel"),
        ("mha", {"ElementType": "MET_SHORT_ARRAY"}, "ElementType = MET_SHORT_ARRAY"),
        ("mha", {"ElementType": None}, "ElementType = "),
        ("mha", {"ElementSpacing": "0 1 1"}, "singular affine"),
        ("mha", {"ElementSpacing": "nan 1 1"}, "an affine with NaN"),
        ("mha", {"ElementSpacing": "1,5 1 1"}, "ElementSpacing: 1,5 1 1"),
        ("mha", {"ElementSpacing": "1 1"}, "ElementSpacing: 1 1"),
        ("mha", {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular affine"),
        ("mha", {"Position": "0 0 0"}, "the line 'Position = 0 0 0', the second of its kind"),
        ("mha", {"DimSize": "4 3 -2"}, "DimSize = 4 3 -2"),
        ("mha", {"DimSize": "4 3 2_0"}, "DimSize: 4 3 2_0"),
        ("mha", {"DimSize": "99999 999999 99999"}, "48 bytes of voxels"),
        ("mha", {"NDims": "-3"}, "NDims = -3"),
        ("mha", {"NDims": "4", "DimSize": "4 3 1 2", "TransformMatrix": None, "Offset": None, "ElementSpacing": None},
         "2 frames"),
        ("mha", {"ElementToIntensityFunctionSlope": "2"}, "ElementToIntensityFunctionSlope = 2"),
        ("mha", {"DistanceUnits": "um"}, "DistanceUnits = um"),
        ("mha", {"BinaryData": "maybe"}, "BinaryData = maybe"),
        ("mha", {"BinaryData": "False"}, "BinaryData = False"),
        ("mha", {"Ofbset": "1 2 3"}, "the field 'Ofbset', expected Offset"),
        ("mha", {"ObjectType": "Tube"}, "ObjectType = Tube"),
        ("mha", {"TransformMatrix": None, "CompressedDataSize": "48TransformMatrix = 1 0 0 0 1 0 0 0 -1"},
         "'=' within the line"),
        ("mha", {"Offset": None, "Comment": "CTPosition: 1 2 3"}, "'Position:' within the line"),
        ("mha", {"AnatomicalOrientation": "RAIElementByteOrderMSB = True"}, "'=' within the line"),
        ("nrrd", {"space": "3D-right-handed"}, "space: 3D-right-handed"),
        ("nrrd", {"space": None}, "space directions without a space"),
        ("nrrd", {"space_directions": None}, "without space directions"),
        ("nrrd", {"space_directions": "(1,0,0) (2,0,0) (0,0,3)"}, "singular affine"),
        ("nrrd", {"space_directions": "(1,0) (0,2) (0,0)"}, "3 axes of space with vectors of [2, 3] numbers"),
        ("nrrd", {"space_units": '"um" "um" "um"'}, "spaceunits"),
        ("nrrd", {"kinds": "vector domain domain"}, "4 values per voxel (an axis of kind vector)"),
        ("nrrd", {"kinds": "domain domain time"}, "2 frames (an axis of kind time)"),
        ("nrrd", {"axis_mins": "1 2 3"}, "axismins: 1 2 3"),
        ("nrrd", {"endian": None}, "endian: None"),
        ("nrrd", {"type": "block"}, "type: block"),
        ("nrrd", {"encoding": "ascii"}, "encoding: ascii, expected one of raw, gzip, gz"),
        ("nrrd", {"line_skip": "2"}, "lineskip: 2"),
        ("nrrd", {"sizes": "4 3"}, "sizes: 4 3"),
        ("nrrd", {"nonsense": "1"}, "the line 'nonsense: 1'"),
        ("nrrd", {"byte_skip": "-2"}, "-2 bytes to skip"),
        ("nrrd", {"space_origin": None, "centers": "cell cell cell\0e origin: (1,2,3)"}, "': ' within the line"),
        ("nrrd", {"space_origin": None, "content": "CTspace origin: (1,2,3)"}, "'space origin: ' within the line"),
    ],
)  # fmt: skip
def test_the_true_reason(tmp_path, kind, fields, found):
    assert found in refusal(write(tmp_path, kind, **fields))


def test_voxels_in_other_files(tmp_path):
    (tmp_path / "my voxels.raw").write_bytes(RAW)
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(RAW))
    check(metaimage(tmp_path / "a.mhd", b"", "my voxels.raw"))
    check(nrrd(tmp_path / "a.nrrd", b"", "data file: my voxels.raw\n"))
    check(nrrd(tmp_path / "a.nrrd", b"", "datafile: a.raw.gz\n", encoding="gzip"))
    (tmp_path / "short.raw").write_bytes(RAW[:-1])
    assert "found 47 bytes of voxels in short.raw, expected 48" in refusal(
        metaimage(tmp_path / "a.mhd", b"", "short.raw")
    )
    for name in ("none.raw", "LIST", "s%02d.raw 8 9 1"):  # the last two stand for several files
        for path in (metaimage(tmp_path / "a.mhd", b"", name), nrrd(tmp_path / "a.nrrd", b"", f"data file: {name}\n")):
            assert f"found the data file {name!r}, which cannot be read (No such file or directory)" in refusal(path)


WRITTEN = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)


@pytest.fixture(params=[".mha", ".mhd", ".nrrd"])
def compressed(request, tmp_path):
    """A compressed volume that ITK wrote."""
    path = tmp_path / f"volume{request.param}"
    itk.imwrite(itk.image_from_array(WRITTEN), str(path), compression=True)
    return path


def data_of(path):
    """The file with the voxels, and where they begin."""
    file = path.with_suffix(".zraw") if path.suffix == ".mhd" else path
    content = file.read_bytes()
    return file, 0 if path.suffix == ".mhd" else max(content.find(b"LOCAL\n") + 6, content.find(b"\n\n") + 2)


def is_whole(stream):
    """Whether Python's own modules find nothing wrong with a stream."""
    try:
        return len((gzip if stream[:2] == b"\x1f\x8b" else zlib).decompress(stream)) == WRITTEN.nbytes
    except (zlib.error, OSError, EOFError):
        return False


def test_a_whole_file_is_read(compressed):
    np.testing.assert_array_equal(read_volume(compressed).array, WRITTEN.T)


def test_every_flipped_bit_is_noticed_or_harmless(compressed):
    file, start = data_of(compressed)
    good = file.read_bytes()
    generator = np.random.default_rng(1)
    for place in generator.integers(start, len(good), 60):
        bad = bytearray(good)
        bad[place] ^= 1 << generator.integers(8)
        file.write_bytes(bad)
        if is_whole(bytes(bad[start:])):
            np.testing.assert_array_equal(read_volume(compressed).array, WRITTEN.T)
        else:
            with pytest.raises(DataError, match=f"{compressed.name}: found "):
                read_volume(compressed)


def test_a_cut_off_stream_is_refused(compressed):
    file, start = data_of(compressed)
    good = file.read_bytes()
    file.write_bytes(good[: start + (len(good) - start) // 2])
    with pytest.raises(DataError, match="found damaged or cut-off voxels"):
        read_volume(compressed)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
def test_voxels_without_compression_are_counted(tmp_path, ending):
    path = tmp_path / f"volume{ending}"
    itk.imwrite(itk.image_from_array(WRITTEN), str(path), compression=False)
    np.testing.assert_array_equal(read_volume(path).array, WRITTEN.T)
    file = path.with_suffix(".raw") if ending == ".mhd" else path
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match=f"found {WRITTEN.nbytes - 2} bytes of voxels.*, expected 672"):
        read_volume(path)


def test_a_missing_file_of_voxels_is_named(tmp_path):
    path = tmp_path / "volume.mhd"
    itk.imwrite(itk.image_from_array(WRITTEN), str(path), compression=False)
    path.with_suffix(".raw").unlink()
    with pytest.raises(DataError, match=r"the data file 'volume\.raw', which cannot be read"):
        read_volume(path)


def test_a_nifti_named_in_capitals_is_read_to_its_checksum(tmp_path):
    path = tmp_path / "VOLUME.NII.GZ"
    nibabel.save(nibabel.Nifti1Image(WRITTEN, np.eye(4)), tmp_path / "volume.nii.gz")
    content = bytearray((tmp_path / "volume.nii.gz").read_bytes())
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path).array, WRITTEN)
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"VOLUME\.NII\.GZ"):
        read_volume(path)

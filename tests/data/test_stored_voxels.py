"""Damaged MetaImage and NRRD files are refused, whole ones read."""

import gzip
import zlib

import itk
import numpy as np
import pytest

from custom.data import read_volume
from custom.errors import DataError

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)


@pytest.fixture(params=[".mha", ".mhd", ".nrrd"])
def compressed(request, tmp_path):
    """A compressed volume that ITK wrote."""
    path = tmp_path / f"volume{request.param}"
    itk.imwrite(itk.image_from_array(VOXELS), str(path), compression=True)
    return path


def data_of(path):
    """The file with the voxels, and where they begin."""
    file = path.with_suffix(".zraw") if path.suffix == ".mhd" else path
    content = file.read_bytes()
    return file, 0 if path.suffix == ".mhd" else max(content.find(b"LOCAL\n") + 6, content.find(b"\n\n") + 2)


def is_whole(stream):
    """Whether Python's own modules find nothing wrong with a stream."""
    try:
        return len((gzip if stream[:2] == b"\x1f\x8b" else zlib).decompress(stream)) == VOXELS.nbytes
    except (zlib.error, OSError, EOFError):
        return False


def test_a_whole_file_is_read(compressed):
    np.testing.assert_array_equal(read_volume(compressed).array, VOXELS.T)


def test_every_flipped_bit_is_noticed_or_harmless(compressed):
    file, start = data_of(compressed)
    good = file.read_bytes()
    generator = np.random.default_rng(1)
    for place in generator.integers(start, len(good), 60):
        bad = bytearray(good)
        bad[place] ^= 1 << generator.integers(8)
        file.write_bytes(bad)
        if is_whole(bytes(bad[start:])):
            np.testing.assert_array_equal(read_volume(compressed).array, VOXELS.T)
        else:
            with pytest.raises(DataError, match=rf"{compressed.name}: found compressed voxels|found a file with \d+"):
                read_volume(compressed)


def test_a_cut_off_stream_is_refused(compressed):
    file, start = data_of(compressed)
    good = file.read_bytes()
    file.write_bytes(good[: start + (len(good) - start) // 2])
    with pytest.raises(DataError, match="compressed voxels that are cut off"):
        read_volume(compressed)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
def test_voxels_without_compression_are_counted(tmp_path, ending):
    path = tmp_path / f"volume{ending}"
    itk.imwrite(itk.image_from_array(VOXELS), str(path), compression=False)
    np.testing.assert_array_equal(read_volume(path).array, VOXELS.T)
    file = path.with_suffix(".raw") if ending == ".mhd" else path
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match=f"found a file with {VOXELS.nbytes - 2} bytes of voxels, expected 672"):
        read_volume(path)


def test_a_missing_file_of_voxels_is_named(tmp_path):
    path = tmp_path / "volume.mhd"
    itk.imwrite(itk.image_from_array(VOXELS), str(path), compression=False)
    path.with_suffix(".raw").unlink()
    with pytest.raises(DataError, match=r"volume\.raw, which is missing"):
        read_volume(path)


def test_a_nifti_named_in_capitals_is_read_to_its_checksum(tmp_path):
    import nibabel

    path = tmp_path / "VOLUME.NII.GZ"
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "volume.nii.gz")
    content = bytearray((tmp_path / "volume.nii.gz").read_bytes())
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"VOLUME\.NII\.GZ"):
        read_volume(path)

"""Reads NIfTI files (.nii, .nii.gz) with nibabel, and rejects damage that nibabel ignores.

Format: https://nifti.nimh.nih.gov/nifti-1, and NIfTI-2.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..errors import DataError
from .nifti_geometry import nifti_affine

_COMPLETE = "a complete NIfTI file"
_INFLATED = 1032
"""Largest compression ratio of Deflate."""
_KNOWN_UNITS = range(4)
"""Codes of unknown, metre, millimetre, micrometre."""
_LAST_CODE = 5
"""Largest valid qform_code and sform_code."""
_CHUNK = 1 << 20


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels as stored, with slope and intercept applied, and the affine (4, 4) to RAS millimetres.

    Raises:
        DataError: the file is not NIfTI, truncated, damaged or longer than its header says, or has an unknown unit.
    """
    image = open_nifti(path)
    _check_size(path, image)
    try:
        array = _inflated(path, type(image)) if path.suffix.lower() == ".gz" else np.asanyarray(image.dataobj)
    except DataError:
        raise
    except MemoryError:
        raise DataError.of(path, f"voxels of shape {image.shape}, for which there is no memory", _COMPLETE) from None
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, HeaderDataError):
        raise DataError.of(path, "a damaged or cut-off file", _COMPLETE) from None
    return array, nifti_affine(image)


def open_nifti(path: Path) -> Any:
    """Return nibabel's image, with only the header read, without a memory map.

    Raises:
        DataError: the header is truncated or invalid.
    """
    try:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, nibabel.Nifti1Image):  # base class of Nifti2Image
            raise DataError.of(path, f"a file of the kind {type(image).__name__}", "NIfTI-1 or NIfTI-2")
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            header = type(image.header).from_fileobj(file, check=False)
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, ImageFileError, AttributeError):
        raise DataError.of(path, "no complete NIfTI header", _COMPLETE) from None
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise DataError.of(path, f"a damaged NIfTI header ({' '.join(str(error).split())})", _COMPLETE) from None
    _check_geometry(path, header)
    return image


def _check_geometry(path: Path, header: Any) -> None:
    """Raise for geometry that nibabel corrects by a guess; ``header`` is as in the file."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in _KNOWN_UNITS:
        raise DataError.of(path, f"voxel sizes in the unit {unit}", "millimetres (2)")
    for key in ("qform_code", "sform_code"):
        if not 0 <= header[key] <= _LAST_CODE:
            raise DataError.of(path, f"the {key} {header[key]}", f"0 to {_LAST_CODE}")
    if header["sform_code"] > 0:
        return
    lengths = header["pixdim"][1:4][: max(header["dim"][0], 0)]
    if not (lengths > 0).all():
        raise DataError.of(path, f"voxel sizes {lengths.tolist()}", "lengths above 0")
    if header["qform_code"] > 0 and header["pixdim"][0] not in (-1, 0, 1):
        raise DataError.of(
            path, f"pixdim[0] {header['pixdim'][0]:g}", "1 or -1, whether the third axis is turned round"
        )


def _check_size(path: Path, image: Any) -> None:
    """Raise if the file is too small or too large for its voxels, before memory is allocated."""
    size = path.stat().st_size
    expected = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if path.suffix.lower() == ".gz":
        if expected > size * _INFLATED:
            raise DataError.of(path, f"{size} bytes", f"compressed voxels of shape {image.shape}")
    elif size != expected:
        raise DataError.of(path, f"a file of {size} bytes", f"{expected}, as its header says")


def _inflated(path: Path, kind: Any) -> np.ndarray:
    with gzip.open(path) as stream:
        array = np.asanyarray(kind.from_stream(stream).dataobj)
        surplus = 0
        while chunk := stream.read(_CHUNK):  # to the checksum at the end, before which nibabel stops
            surplus += len(chunk)
    if surplus:
        raise DataError.of(path, f"{surplus} bytes behind the voxels of shape {array.shape}", "none")
    return array

"""Read what only ITK reads (NRRD, MetaImage), refusing what ITK passes over.

ITK is imported when the first such file is read, so that NIfTI works without it.
"""

import os
from typing import Any

import numpy as np

from ..errors import DataError
from .stored_voxels import check_voxels

_WRAPPED = {"unsigned_char", "short", "unsigned_short", "int", "unsigned_int", "float", "double"}
"""Component types for which the wheels on PyPI have images."""


def read_itk(path: str | os.PathLike) -> Any:
    """An ``itk.Image`` from one file; pixel types that the Python wheels do not carry are read as float64.

    Raises:
        DataError: ITK is not installed or cannot read the file, or a voxel holds several values.
    """
    itk = _require_itk(path)
    name = os.fspath(path)
    try:
        header = itk.ImageIOFactory.CreateImageIO(name, itk.CommonEnums.IOFileMode_ReadMode)
        if header is None:
            raise RuntimeError("ITK knows no reader for it")
        header.SetFileName(name)
        header.ReadImageInformation()
        components = header.GetNumberOfComponents()
        kind = header.GetComponentTypeAsString(header.GetComponentType())
        check_voxels(path, int(header.GetImageSizeInBytes()))
        # Asking for a missing type is answered after 10 s with an error: choose beforehand.
        image = itk.imread(name) if kind in _WRAPPED and components == 1 else itk.imread(name, itk.D)
    except DataError:
        raise
    except Exception:  # ITK raises RuntimeError and errors of its own, whose last lines mislead
        raise DataError.of(path, "an unreadable or damaged file", "a complete, undamaged volume") from None
    if components != 1:
        raise DataError.of(path, f"{components} values per voxel", "one grey value per voxel")
    return image


def itk_array(image: Any) -> np.ndarray:
    """The voxels of an ``itk.Image``, slowest axis first (page, row, column)."""
    import itk

    return itk.array_from_image(image)


def itk_affine(image: Any) -> np.ndarray:
    """The (4, 4) affine from an index (column, row, page) to millimetres in RAS; ITK's own millimetres are LPS."""
    import itk

    used = min(image.GetImageDimension(), 3)
    affine = np.eye(4)
    direction = itk.array_from_matrix(image.GetDirection())[:used, :used]
    affine[:used, :used] = direction * np.asarray(image.GetSpacing())[:used]
    affine[:used, 3] = np.asarray(image.GetOrigin())[:used]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def last_line(error: BaseException) -> str:
    """The last line of a library's message, which is where ITK says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _require_itk(path: object) -> Any:
    try:
        import itk
    except ImportError:
        raise DataError.of(path, "a format that only ITK reads, but no ITK", "pip install itk") from None
    return itk

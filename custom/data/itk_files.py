"""Read what only ITK reads (NRRD, MetaImage, TIFF, DICOM), refusing what ITK passes over.

ITK is imported when the first such file is read, so that NIfTI works without it.
"""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_GAP = 0.1
"""DICOM slices may deviate from even spacing by this share of the spacing."""

_WRAPPED = {"unsigned_char", "short", "unsigned_short", "int", "unsigned_int", "float", "double"}
"""Component types for which the wheels on PyPI have images."""

_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag (7FE0,0010), little endian
_END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


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
        # Asking for a missing type is answered after 10 s with an error: choose beforehand.
        image = itk.imread(name) if kind in _WRAPPED and components == 1 else itk.imread(name, itk.D)
    except Exception as error:  # ITK raises RuntimeError and errors of its own
        raise DataError.of(path, f"an unreadable file ({last_line(error)})", "a complete, undamaged volume") from None
    if components != 1:
        raise DataError.of(path, f"{components} values per voxel", "one grey value per voxel")
    return image


def read_dicom(path: str | os.PathLike) -> Any:
    """An ``itk.Image`` from a single DICOM file (one slice or multi-frame), or from a folder that holds one series.

    Raises:
        DataError: no series, several series, a cut-off file, or slices that are not evenly spaced.
    """
    path = Path(path)
    files = _series(path) if path.is_dir() else [str(path)]
    for file in files:
        _check_dicom_complete(Path(file))
    if len(files) == 1:
        return read_itk(files[0])
    try:
        image = _require_itk(path).imread(files)
    except Exception as error:
        raise DataError.of(path, f"an unreadable series ({last_line(error)})", "one DICOM series") from None
    deviation = float(dict(image).get("ITK_non_uniform_sampling_deviation", 0.0))
    step = float(image.GetSpacing()[2])
    if deviation > _GAP * step:
        found = f"slices {deviation:.3g} mm off an even spacing of {step:.3g} mm (one may be missing)"
        raise DataError.of(path, found, "evenly spaced slices")
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


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file carries the mark of DICOM part 10: ``DICM`` after 128 bytes."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


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


def _series(folder: Path) -> list[str]:
    names = _require_itk(folder).GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)  # also tells apart images of one series with other sizes or orientations
    names.SetDirectory(str(folder))
    series = [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]
    if len(series) != 1:
        sizes = f" of {', '.join(str(len(files)) for files in series)} files" if series else ""
        raise DataError.of(folder, f"{len(series)} DICOM series{sizes}", "a folder with exactly one")
    return series[0]


def _check_dicom_complete(path: Path) -> None:
    """Refuse a file that ends before its pixel data does; GDCM fills the rest without a word."""
    data = path.read_bytes()
    start, length = _pixel_data(data)
    if start is None:  # another encoding (deflated, big endian): left to GDCM
        return
    compressed = length == 0xFFFFFFFF  # frames of any length, closed by a delimiter
    if not (data.rfind(_END_OF_SEQUENCE, start) >= 0 if compressed else start + length <= len(data)):
        raise DataError.of(path, f"a file of {len(data)} bytes that ends inside its pixel data", "a complete file")


def _pixel_data(data: bytes) -> tuple[int | None, int]:
    """Offset and length of the last pixel data element (earlier ones are icons)."""
    for kind in (b"OW\x00\x00", b"OB\x00\x00", b""):  # explicit value representation, then implicit
        at = data.rfind(_PIXEL_DATA + kind)
        begin = at + 4 + len(kind)
        if at >= 0 and len(data) >= begin + 4:
            return begin + 4, struct.unpack_from("<I", data, begin)[0]
    return None, 0

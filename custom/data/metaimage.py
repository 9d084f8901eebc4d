"""Reads MetaImage files (.mha, .mhd).

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. Millimetres are LPS; the rows of TransformMatrix are the axes.
"""

import re
from pathlib import Path

import numpy as np

from ..errors import DataError, nearest
from .stored_voxels import check_one_field, numbers, ras_affine, read_voxels

_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},  # four bytes everywhere
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_SYNONYMS = {
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    **dict.fromkeys(("Rotation", "Orientation"), "TransformMatrix"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_LONGEST = 1 << 20
"""Largest size of a header in bytes."""
_LINE = re.compile(r"([!-~ ]+?)\s*[=:]\s*(.*)")
_KNOWN = {
    *("ObjectType", "ObjectSubType", "NDims", "Name", "ID", "ParentID", "Comment", "AcquisitionDate", "Color"),
    *("TransformMatrix", "Offset", "CenterOfRotation", "AnatomicalOrientation", "DistanceUnits", "Modality"),
    *("BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize", "CompressionLevel"),
    *("DimSize", "HeaderSize", "SequenceID", "ElementSpacing", "ElementSize", "ElementSizeValid", "ElementType"),
    *("ElementNumberOfChannels", "ElementMin", "ElementMax", "ElementDataFile"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", *_SYNONYMS),
}
_DECISIVE = _KNOWN - {"ID", "ParentID", "Name", "Comment", "Color", "ElementDataFile"}
"""Fields whose values contain no "=", nor do texts contain such a field."""
_ANOTHER = rf"({'|'.join(sorted(_DECISIVE))})\s*[=:]"
_ALIKE = 0.75
"""Similarity to a known name above which a field is considered damaged; other unknown fields are allowed."""
_OF_NIFTI = {"toffset"}
"""The same, but allowed: ITK copies the fields of a NIfTI header."""
_UNCHANGED = (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0))
"""Intensity scaling, which must be the identity; ITK silently ignores it."""


def read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels, and the (4, 4) affine from an index to RAS millimetres.

    Raises:
        DataError: the file is damaged, or does not hold one grey value per voxel; voxels as text or in several files.
    """
    with path.open("rb") as file:
        fields, offset = _fields(file.read(_LONGEST), path)
    _check_meaning(fields, path)
    (dimensions,) = numbers(fields, "NDims", 1, path)
    if not 2 <= dimensions <= 4:
        raise DataError.of(path, f"NDims = {dimensions}", "2, 3 or 4")
    shape = numbers(fields, "DimSize", dimensions, path)
    if min(shape) < 1:
        raise DataError.of(path, f"DimSize = {fields['DimSize']}", "at least one voxel")
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise DataError.of(path, f"ElementType = {kind}", f"one of {', '.join(_TYPES)}")
    order = ">" if _flag(fields, "BinaryDataByteOrderMSB", path) else "<"
    data_file = fields["ElementDataFile"]
    (skip,) = numbers(fields, "HeaderSize", 1, path, "0")
    voxels = read_voxels(
        path,
        shape,
        np.dtype(order + _TYPES[kind]),
        compressed=_flag(fields, "CompressedData", path),
        offset=offset if skip <= 0 else 0,  # HeaderSize counts from the beginning of the file
        file=None if data_file.upper() == "LOCAL" else data_file,
        skip=skip,
    )
    return voxels, _affine(fields, dimensions, path)


def _check_meaning(fields: dict[str, str], path: Path) -> None:
    """Raise for fields that change the meaning of the voxels, most of which ITK ignores."""
    if fields.get("ObjectType", "Image") != "Image":
        raise DataError.of(path, f"ObjectType = {fields['ObjectType']}", "Image")
    (channels,) = numbers(fields, "ElementNumberOfChannels", 1, path, "1")
    if channels != 1:
        raise DataError.of(path, f"{channels} values per voxel", "one grey value per voxel")
    for key, value in _UNCHANGED:
        if numbers(fields, key, 1, path, str(value), float) != (value,):
            raise DataError.of(path, f"{key} = {fields[key]}", f"{value:g}")
    if fields.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise DataError.of(path, f"DistanceUnits = {fields['DistanceUnits']}", "mm")
    if not _flag(fields, "BinaryData", path, "True"):
        raise DataError.of(path, f"BinaryData = {fields['BinaryData']}", "True")


def _affine(fields: dict[str, str], dimensions: int, path: Path) -> np.ndarray:
    ones, zeros = " ".join("1" * dimensions), " ".join("0" * dimensions)
    spacing = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    steps = np.array(numbers(fields, spacing, dimensions, path, ones, float))
    identity = " ".join(map(str, np.eye(dimensions).ravel()))
    matrix = np.array(numbers(fields, "TransformMatrix", dimensions**2, path, identity, float))
    origin = np.array(numbers(fields, "Offset", dimensions, path, zeros, float))
    return ras_affine(matrix.reshape(dimensions, dimensions).T * steps, origin)


def _fields(content: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Return the fields up to ElementDataFile, and the offset of the next line."""
    fields: dict[str, str] = {}
    at = 0
    for raw in content.splitlines(keepends=True):
        at += len(raw)
        line = raw.decode("latin-1").strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        key = _SYNONYMS.get(match[1], match[1]) if match else ""
        if match and key not in _KNOWN | _OF_NIFTI and (known := nearest(key, _KNOWN, _ALIKE)):
            raise DataError.of(path, f"a header with the field {key!r}", known)
        if match is None or key in fields:
            found = f"a header with the line {line[:40]!r}" + (", the second of its kind" if match else "")
            raise DataError.of(path, found, "a MetaImage header")
        fields[key] = match[2]
        check_one_field(line, match[2], "=" if key in _DECISIVE else _ANOTHER, path)
        if key == "ElementDataFile":
            return fields, at
    raise DataError.of(path, "a header that is cut off: no ElementDataFile", "a complete MetaImage file")


def _flag(fields: dict[str, str], key: str, path: Path, default: str = "False") -> bool:
    value = fields.get(key, default)
    if value.lower() not in ("true", "false", "1", "0"):
        raise DataError.of(path, f"{key} = {value}", "True or False")
    return value.lower() in ("true", "1")

"""Reads NRRD files (.nrrd).

Format: https://teem.sourceforge.net/nrrd/format.html
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .stored_voxels import check_one_field, numbers, ras_affine, read_voxels

_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
_COMPRESSED = {"raw": False, "gzip": True, "gz": True}
_TO_RAS = {
    **dict.fromkeys(("", "left-posterior-superior", "lps"), (-1, -1, 1)),  # LPS without a space, as in ITK
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
}
_FIELDS = {  # without spaces, which are optional
    *("dimension", "type", "blocksize", "encoding", "endian", "content", "min", "max", "oldmin", "oldmax"),
    *("datafile", "lineskip", "byteskip", "number", "sampleunits", "sizes", "spacings", "thicknesses", "axismins"),
    *("axismaxs", "centers", "centerings", "labels", "units", "kinds", "space", "spacedimension", "spaceunits"),
    *("spaceorigin", "spacedirections", "measurementframe"),
}
_TEXTS = ("content", "labels", "units", "sampleunits", "datafile")
"""Fields whose values may contain a colon."""
_ANOTHER = "(space ?(directions|origin|units)|spacings|endian|encoding|kinds|axis ?(mins|maxs)): "
_OF_SPACE = ("domain", "space", "none", "???")
"""Kinds of spatial axes."""
_LONGEST = 1 << 20
"""Largest size of a header in bytes."""


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels, and the (4, 4) affine from an index to RAS millimetres.

    Raises:
        DataError: the file is damaged, or does not hold one grey value per voxel; voxels in several files, or in
            another encoding than raw and gzip.
    """
    with path.open("rb") as file:
        fields, offset = _fields(file.read(_LONGEST), path)
    (dimension,) = numbers(fields, "dimension", 1, path)
    sizes = numbers(fields, "sizes", dimension, path)
    if min(sizes, default=0) < 1:
        raise DataError.of(path, f"sizes: {fields['sizes']}", "at least one voxel")
    axes, affine = _geometry(fields, sizes, path)
    kind = _known(fields, "type", _TYPES, path)
    compressed = _known(fields, "encoding", _COMPRESSED, path)
    order = {"": "=", "little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None or (order == "=" and kind[1] != "1"):
        raise DataError.of(path, f"endian: {fields.get('endian')}", "endian: little or big")
    if numbers(fields, "lineskip", 1, path, "0") != (0,):
        raise DataError.of(path, f"lineskip: {fields['lineskip']}", "0")
    (skip,) = numbers(fields, "byteskip", 1, path, "0")
    voxels = read_voxels(
        path,
        tuple(sizes[axis] for axis in axes),
        np.dtype(order + kind),
        compressed=compressed,
        offset=offset,
        file=fields.get("datafile"),
        skip=skip,
    )
    return voxels, affine


def _geometry(fields: dict[str, str], sizes: tuple[int, ...], path: Path) -> tuple[list[int], np.ndarray]:
    """Return the spatial axes, and the affine from an index along them to RAS millimetres."""
    if bad := [key for key in ("axismins", "axismaxs") if set(fields.get(key, "nan").lower().split()) != {"nan"}]:
        raise DataError.of(path, f"{bad[0]}: {fields[bad[0]]}", "a space origin and space directions")
    for key in ("units", "spaceunits"):
        if set(fields.get(key, "").replace('"', " ").split()) - {"mm", "???", "none"}:
            raise DataError.of(path, f"{key}: {fields[key]}", "millimetres")
    kinds = fields.get("kinds", "none " * len(sizes)).lower().split()
    steps = _steps(fields, len(sizes), path)
    if len(kinds) != len(sizes) or len(steps) != len(sizes):
        raise DataError.of(path, f"kinds or directions of another number of axes than {len(sizes)}", "one for each")
    axes = [axis for axis, kind in enumerate(kinds) if kind in _OF_SPACE and steps[axis] is not None]
    others = {kinds[axis]: size for axis, size in enumerate(sizes) if axis not in axes and size > 1}
    if others:
        kind, size = next(iter(others.items()))
        what = f"{size} values per voxel" if kind != "time" else f"{size} frames"
        raise DataError.of(path, f"{what} (an axis of kind {kind})", "one grey value per voxel")
    vectors = [steps[axis] for axis in axes]
    origin = (*_vectors(fields, "spaceorigin", path), None)[0] if "spaceorigin" in fields else [0.0] * len(axes)
    lengths = {len(vector or ()) for vector in (*vectors, origin)}
    allowed = (3,) if "space" in fields else (2, 3, 4)
    if len(axes) not in allowed or lengths != {len(axes)}:
        raise DataError.of(path, f"{len(axes)} axes of space with vectors of {sorted(lengths)} numbers", "as many")
    if {"space", "spacedimension"} <= fields.keys():
        raise DataError.of(path, "both a space and a space dimension", "one of them")
    return axes, ras_affine(np.array(vectors).T, np.array(origin), _known(fields, "space", _TO_RAS, path))


def _steps(fields: dict[str, str], count: int, path: Path) -> list[list[float] | None]:
    """For each axis the vector from one voxel to the next; None for an axis that is not spatial."""
    if "spacedirections" in fields:
        if "spacings" in fields:
            raise DataError.of(path, "both spacings and space directions", "one of them")
        if not fields.keys() & {"space", "spacedimension"}:
            raise DataError.of(path, "space directions without a space", "space: left-posterior-superior or another")
        return _vectors(fields, "spacedirections", path)
    if "space" in fields:
        raise DataError.of(path, f"space: {fields['space']} without space directions", "both or none")
    spacings = np.array(numbers(fields, "spacings", count, path, "nan " * count, float))
    return np.diag(np.where(np.isnan(spacings), 1, spacings)).tolist()


def _vectors(fields: dict[str, str], key: str, path: Path) -> list[list[float] | None]:
    words = re.findall(r"\([^()]*\)|[^()\s]+", fields[key])
    try:
        return [None if word == "none" else [float(number) for number in word[1:-1].split(",")] for word in words]
    except ValueError:
        raise DataError.of(path, f"{key}: {fields[key]}", "vectors as (1,0,0)") from None


def _fields(content: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Return the fields, and the offset of the voxels."""
    if not re.match(rb"NRRD(000[1-6]|00\.01)\r?\n", content):
        raise DataError.of(path, f"a file that begins with {content[:8]!r}", "NRRD0001 to NRRD0006")
    fields: dict[str, str] = {}
    at = content.index(b"\n") + 1
    while at < len(content):
        end = content.find(b"\n", at) + 1 or len(content)
        line = content[at:end].decode("latin-1").strip("\r\n")
        at = end
        if not line:
            return fields, at
        if line.startswith("#") or ":=" in line.split(": ")[0]:  # a comment, a key/value pair
            continue
        name, colon, value = line.partition(": ")
        key = name.strip().lower().replace(" ", "")
        if not colon or key not in _FIELDS or key in fields:
            raise DataError.of(path, f"a header with the line {line[:40]!r}", "fields of NRRD, each once")
        fields[key] = value.strip()
        check_one_field(line, value, _ANOTHER if key in _TEXTS else ": ", path)
    if "datafile" not in fields:
        raise DataError.of(path, "a header that is cut off: no empty line", "a complete NRRD file")
    return fields, at


def _known(fields: dict[str, str], key: str, known: dict[str, Any], path: Path) -> Any:
    value = fields.get(key, "")
    if value.lower() not in known:
        raise DataError.of(path, f"{key}: {value}", f"one of {', '.join(filter(None, known))}")
    return known[value.lower()]

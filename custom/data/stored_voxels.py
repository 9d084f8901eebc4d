"""Reads the voxels that a text header (MetaImage, NRRD) describes, and verifies their exact size and checksums.

ITK reads damaged or short streams silently, and all readers ignore bytes after the voxels.
"""

import math
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_ZLIB_OR_GZIP = 47  # wbits for zlib: the largest window, and either header


def read_voxels(
    header: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    compressed: bool,
    offset: int,
    file: str | None = None,
    skip: int = 0,
) -> np.ndarray:
    """Return voxels of a shape whose first axis is the fastest.

    Args:
        header: the header's file, named in errors.
        shape: in voxels.
        dtype: with byte order.
        compressed: whether they are one or several streams of zlib or gzip.
        offset: their position in the header's own file.
        file: name of the file that holds them instead.
        skip: number of bytes before raw voxels; -1: all but the last ones.

    Raises:
        DataError: the file is missing, too short or too long, or its checksum is wrong.
    """
    size = math.prod(shape) * dtype.itemsize
    if skip < -1 or (skip and compressed):
        raise DataError.of(header, f"{skip} bytes to skip", "0, or -1 for raw voxels at the end of the file")
    try:
        with (header if file is None else header.parent / file).open("rb") as stream:
            stream.seek(offset if file is None else 0)
            data = stream.read()
    except (OSError, ValueError) as error:  # ValueError for a null byte in the name
        found = f"the data file {file!r}, which cannot be read ({getattr(error, 'strerror', error)})"
        raise DataError.of(header, found, "the file of all voxels") from None
    data = _decompressed(data, size) if compressed else data[skip if skip >= 0 else -size :]
    if data is None or len(data) != size:
        found = "damaged or cut-off voxels" if data is None else f"{len(data)} bytes of voxels"
        where = f" in {file}" if file else ""
        raise DataError.of(header, found + where, f"{size} bytes for the shape {shape} of {dtype.name}")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F")


def numbers(
    fields: Mapping[str, str], key: str, count: int, path: Path, default: str = "", kind: Callable[[str], Any] = int
) -> tuple:
    """Return the ``count`` numbers of a header's field.

    Raises:
        DataError: the field does not consist of ``count`` numbers.
    """
    value = fields.get(key, default)
    try:
        found = tuple(kind(word) for word in value.split())
    except ValueError:
        found = ()
    if len(found) != count or "_" in value:  # Python allows underscores in numbers
        raise DataError.of(path, f"{key}: {value}" if value else f"no {key}", f"{key} of {count} numbers")
    return found


def check_one_field(line: str, value: str, another: str, path: Path) -> None:
    """Raise if a field's value contains the start of another field, whose line break is lost: it would be ignored.

    Args:
        line: for the message.
        value: the field's.
        another: a regular expression of starts.
        path: the header's file, named in errors.

    Raises:
        DataError: it does.
    """
    if start := re.search(another, value):
        raise DataError.of(path, f"{start[0]!r} within the line {line[:40]!r}", "one field a line")


def ras_affine(directions: np.ndarray, origin: np.ndarray, to_ras: tuple[int, int, int] = (-1, -1, 1)) -> np.ndarray:
    """Return the (4, 4) affine from an index to RAS millimetres; axes beyond the third are ignored.

    Args:
        directions: (N, N), whose columns are the steps along each axis.
        origin: (N,), centre of the first voxel.
        to_ras: signs that convert the header's coordinates to RAS; by default from LPS.
    """
    used = min(len(origin), 3)
    affine = np.eye(4)
    affine[:used, :used] = directions[:used, :used]
    affine[:used, 3] = origin[:used]
    return np.diag([*to_ras, 1.0]) @ affine


def _decompressed(data: bytes, size: int) -> bytes | None:
    """Decompress all concatenated streams, up to one byte more than ``size``; None if one is damaged or cut off."""
    parts, left = [], min(size + 1, sys.maxsize)
    while data and left > 0:
        stream = zlib.decompressobj(_ZLIB_OR_GZIP)
        try:
            part = stream.decompress(data, left)
        except zlib.error:
            return None
        left -= len(part)
        parts.append(part)
        if not stream.eof:
            return None
        data = stream.unused_data
    return b"".join(parts)

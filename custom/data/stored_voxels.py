"""Reads the voxels that a text header (MetaImage, NRRD) describes, and verifies their exact size and checksums.

ITK reads damaged or short streams silently, and all readers ignore bytes after the voxels.
"""

import bz2
import math
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_ZLIB_OR_GZIP = 47  # wbits for zlib: the largest window, and either header
_DECOMPRESSORS = {"zlib": lambda: zlib.decompressobj(_ZLIB_OR_GZIP), "bzip2": bz2.BZ2Decompressor}
_PATTERN = re.compile(r"([^%]*%0?\d{0,2}d[^%]*?)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+\d)?")


@dataclass(frozen=True)
class VoxelData:
    """What a header says about its voxels.

    Args:
        header: the header's file, named in errors.
        shape: fastest axis first.
        dtype: with byte order.
        encoding: "raw", "zlib" (or gzip), "bzip2", "hex" or "ascii".
        offset: position of the voxels in the header's own file.
        files: the files that hold the voxels if they are separate, in the order of the slowest axis.
        skip: bytes to skip before raw voxels; -1: all but the last ones.
        lines: lines to skip before them.
    """

    header: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    encoding: str = "raw"
    offset: int = 0
    files: tuple[Path, ...] | None = None
    skip: int = 0
    lines: int = 0

    def read(self) -> np.ndarray:
        """Return the voxels, of :attr:`shape`.

        Raises:
            DataError: a file is missing, too short or too long, or its checksum is wrong.
        """
        if self.files is not None and not _cuts_evenly(len(self.files), self.shape):
            raise DataError.of(self.header, f"{len(self.files)} data files", f"equal parts of the shape {self.shape}")
        parts = [self._read(file) for file in self.files or (self.header,)]
        if self.encoding == "ascii":
            return _numbers(b" ".join(parts), self).reshape(self.shape, order="F")
        return np.frombuffer(bytearray().join(parts), self.dtype).reshape(self.shape, order="F")

    def _read(self, path: Path) -> bytes:
        total = math.prod(self.shape) * self.dtype.itemsize
        size = total // len(self.files or (path,))
        if self.skip < -1 or self.lines < 0 or (self.skip and self.encoding != "raw"):
            raise DataError.of(self.header, f"{self.skip} bytes to skip in {self.encoding} voxels", "none")
        try:
            with path.open("rb") as file:
                file.seek(0 if self.files else self.offset)
                for _ in range(self.lines):
                    file.readline()
                data = file.read()
        except (OSError, ValueError) as error:  # ValueError for a null byte in the name
            found = f"the data file {path.name!r}, which cannot be read ({getattr(error, 'strerror', error)})"
            raise DataError.of(self.header, found, "the file of the voxels") from None
        if self.encoding == "ascii":
            return data
        data = self._decoded(data, size, path)
        if len(data) != size:
            raise self._damaged(path, f"{len(data)} bytes of voxels", size)
        return data

    def _decoded(self, data: bytes, size: int, path: Path) -> bytes:
        if self.encoding == "raw":
            return data[self.skip :] if self.skip >= 0 else data[-size:]
        try:
            return bytes.fromhex(data.decode()) if self.encoding == "hex" else _decompressed(data, size, self.encoding)
        except (ValueError, OSError, EOFError, zlib.error):
            raise self._damaged(path, "damaged or cut-off voxels", size) from None

    def _damaged(self, path: Path, found: str, size: int) -> DataError:
        where = f" in {path.name}" if self.files else ""
        return DataError.of(self.header, found + where, f"{size} bytes for the shape {self.shape} of {self.dtype.name}")


def data_files(value: str, names: list[str], folder: Path) -> tuple[Path, ...]:
    """Return the files that hold the voxels of a header in ``folder``.

    Args:
        value: a name; ``"LIST"``, followed by ``names``; or a C format with the first number, the last one and the
            step: ``"slice%03d.raw 1 48 1"``.
        names: the lines after the value.
        folder: the header's folder.
    """
    if value.split(" ")[0] == "LIST":
        return tuple(folder / name.strip() for name in names if name.strip())
    pattern = _PATTERN.fullmatch(value)
    if pattern is None:
        return (folder / value,)
    first, last, step = (int(number) for number in pattern.groups()[1:])
    return tuple(folder / (pattern[1] % number) for number in range(first, last + 1, max(step, 1)))


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


def _cuts_evenly(parts: int, shape: tuple[int, ...]) -> bool:
    """Whether a volume can be divided into equal parts, first along its slowest axis."""
    for length in reversed(shape):
        cuts = math.gcd(parts, length)
        parts //= cuts or 1
        if cuts != length:
            break
    return parts == 1


def _decompressed(data: bytes, size: int, encoding: str) -> bytes:
    """Decompress all concatenated streams, up to one byte more than ``size``."""
    parts, left = [], min(size + 1, sys.maxsize)
    while data and left > 0:
        stream = _DECOMPRESSORS[encoding]()
        part = stream.decompress(data, left)
        left -= len(part)
        parts.append(part)
        if not stream.eof:
            raise EOFError
        data = stream.unused_data
    return b"".join(parts)


def _numbers(text: bytes, of: VoxelData) -> np.ndarray:
    words = [word.removesuffix(",") for word in text.decode(errors="replace").split()]
    if len(words) != math.prod(of.shape):
        raise DataError.of(of.header, f"{len(words)} numbers", f"as many as voxels of the shape {of.shape}")
    try:
        return np.array([int(word) if of.dtype.kind in "iu" else float(word) for word in words], of.dtype)
    except (ValueError, OverflowError):
        raise DataError.of(of.header, "a voxel that is no number of its type", of.dtype.name) from None

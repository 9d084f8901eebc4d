"""The page table of a TIFF file, read without decoding, so that a cut-off stack is noticed.

libtiff (and with it ITK) reads a truncated multi-page file as a shorter stack and only prints a warning; the chain of
page directories tells. Format: TIFF revision 6.0 (1992) and the BigTIFF extension.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..errors import DataError

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _FORMAT, _SUBFILE = 256, 257, 258, 277, 339, 254
_OFFSETS = {273: 279, 324: 325}  # strips and tiles: tag of the offsets -> tag of the byte counts
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF type -> struct code; other types are not needed here
_MOST = 1 << 20  # more tags in a page or values in a tag than any file has: the number itself is damaged
_KINDS = {1: "u", 2: "i", 3: "f"}


class TiffPages(NamedTuple):
    """What the page table says: shape (pages, rows, columns) and the type of one voxel."""

    shape: tuple[int, int, int]
    dtype: np.dtype


def read_tiff_pages(path: str | os.PathLike) -> TiffPages:
    """Walk the page directories and check that every page's data lies inside the file.

    Raises:
        DataError: not a TIFF, a page directory or page data beyond the end of the file, pages of different size or
            type, or more than one sample per pixel.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            pages = _walk(file, size)
        except (struct.error, ValueError, _BeyondEndError) as error:
            message = f"a file of {size} bytes that ends before its pages do ({error})"
            raise DataError.of(path, message, "a complete TIFF stack") from None
        except _NotTiffError:
            raise DataError.of(path, "no TIFF header", "a TIFF stack") from None
    kinds = set(pages)
    if len(kinds) != 1:
        found = f"pages of different (rows, columns, samples, type): {sorted(kinds)[:3]}"
        raise DataError.of(path, found, "equal pages")
    rows, columns, samples, dtype = kinds.pop()
    if samples != 1:
        raise DataError.of(path, f"{samples} samples per pixel", "a grey-scale stack")
    return TiffPages((len(pages), rows, columns), np.dtype(dtype))


class _BeyondEndError(Exception):
    pass


class _NotTiffError(Exception):
    pass


def _walk(file: BinaryIO, size: int) -> list[tuple[int, int, int, str]]:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise _NotTiffError
    version = struct.unpack(order + "H", head[2:4])[0]
    if version not in (42, 43):
        raise _NotTiffError
    big = version == 43
    (offset,) = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])
    pages, seen = [], set()
    while offset:
        if offset in seen:
            raise _BeyondEndError("page directories form a loop")
        seen.add(offset)
        tags, offset = _directory(file, offset, order, big)
        for where, length in _OFFSETS.items():
            for start, count in zip(tags.get(where, ()), tags.get(length, ()), strict=True):
                if start + count > size:
                    raise _BeyondEndError(f"page {len(pages)} ends at byte {start + count}")
        if not tags.get(_SUBFILE, (0,))[0] & 1:  # 1 marks a reduced copy of another page, which ITK skips too
            pages.append(_page(tags))
    if not pages:
        raise _BeyondEndError("no page")
    return pages


def _page(tags: dict[int, tuple[int, ...]]) -> tuple[int, int, int, str]:
    if _WIDTH not in tags or _HEIGHT not in tags or not tags.keys() & _OFFSETS.keys():
        raise _BeyondEndError("a page without size or data")
    bits = tags.get(_BITS, (1,))[0]
    kind = _KINDS.get(tags.get(_FORMAT, (1,))[0], "u")
    dtype = f"{kind}{max(bits // 8, 1)}"
    return tags[_HEIGHT][0], tags[_WIDTH][0], tags.get(_SAMPLES, (1,))[0], dtype


def _directory(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """The integer tags of one page directory, and the offset of the next one (0 at the end)."""
    count_code, entry_code, word = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (count,) = _unpack(file, offset, order + count_code)
    if count > _MOST:
        raise _BeyondEndError(f"a page directory of {count} tags")
    start = offset + struct.calcsize(order + count_code)
    width = struct.calcsize(order + entry_code)
    file.seek(start)
    block = file.read(count * width + struct.calcsize(order + word))
    if len(block) < count * width + struct.calcsize(order + word):
        raise _BeyondEndError(f"page directory at byte {offset} is cut off")
    tags = {}
    for k in range(count):
        tag, kind, number, value = struct.unpack_from(order + entry_code, block, k * width)
        if kind in _INTEGER_TYPES:
            tags[tag] = _values(file, order, _INTEGER_TYPES[kind], number, value, word)
    (following,) = struct.unpack_from(order + word, block, count * width)
    return tags, following


def _values(file: BinaryIO, order: str, code: str, number: int, value: bytes, word: str) -> tuple[int, ...]:
    if number > _MOST:
        raise _BeyondEndError(f"a tag of {number} values")
    layout = f"{order}{number}{code}"
    if struct.calcsize(layout) <= len(value):  # small values lie in the entry itself
        return struct.unpack_from(layout, value)
    return _unpack(file, struct.unpack(order + word, value)[0], layout)


def _unpack(file: BinaryIO, offset: int, layout: str) -> tuple[int, ...]:
    file.seek(offset)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))

"""Reads a TIFF file as one stack of grey pages with tifffile, and rejects damage that tifffile ignores.

tifffile silently shortens a damaged chain of page directories, skips unreadable tags and fills missing strips with
zeros. Here each of these is an error. Format: TIFF revision 6.0 (1992) and BigTIFF.
"""

import itertools
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tifffile import COMPRESSION, TiffFile, TiffPage

from ..errors import DataError
from .tiff_layout import count_slices
from .tiff_page import NotOneStackError, check_data, check_grey, check_tags, inverted, name_of

_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Byte order and version of supported files; tifffile also opens raw formats of cameras."""

_LOG = logging.getLogger("tifffile")


def read_tiff_shape(path: str | os.PathLike) -> tuple[tuple[int, int, int], np.dtype]:
    """Return shape and type of the stack, without decoding it.

    Raises:
        DataError: as :func:`read_tiff`, except for damage that only decoding reveals.
    """
    with _stack(path) as (pages, planes):
        first = pages[0]
        dtype = np.dtype(np.uint8 if first.bitspersample == 1 else first.dtype)
        return (planes, first.imagelength, first.imagewidth), dtype


def read_tiff(path: str | os.PathLike) -> np.ndarray:
    """Return the stack (pages, rows, columns) in its own type; 1-bit pixels become uint8, 0 or 1.

    Pixels of up to 8 bits that are stored with 0 as white are inverted, as the standard defines. Decoding uses one
    thread, since loaders run many processes.

    Raises:
        DataError: the file is not a TIFF or is damaged, or its pages are not one stack of equal grey images: colours, a
            palette, channels, time frames, several stacks, an Orientation other than 1.
    """
    with _stack(path) as (pages, planes):
        first = pages[0]
        array = np.empty((planes, *first.shape), first.dtype)
        if len(pages) == planes:
            parts = list(array)
            for page, part in zip(pages, parts, strict=True):
                _decode(page, part)
        else:
            parts = [array]
            dtype = array.dtype.newbyteorder(first.parent.byteorder)
            first.parent.filehandle.read_array(dtype, array.size, first.dataoffsets[0], out=array)
        for page, part in zip(pages, parts, strict=True):
            if inverted(page):
                part = part.view(np.uint8)
                np.subtract(np.uint8(2**page.bitspersample - 1), part, out=part)
        return array.view(np.uint8) if array.dtype == bool else array


@contextmanager
def _stack(path: str | os.PathLike) -> Iterator[tuple[list[TiffPage], int]]:
    """Context with the pages of the open, checked file, and the number of slices.

    If there are more slices than pages, they follow the single page directory. Errors, also those in the body, become a
    :class:`DataError`.
    """
    path = Path(path)
    _LOG.addFilter(_silent)
    try:
        with path.open("rb") as file:
            if file.read(4) not in _HEADERS:
                raise NotOneStackError("no TIFF header", "a TIFF stack")
        # Without the flags tifffile interprets the directories of these formats differently.
        with TiffFile(path, is_lsm=False, is_scanimage=False, is_ndpi=False) as file:
            yield _checked(file)
    except NotOneStackError as reason:
        raise DataError.of(path, reason.found, reason.expected) from None
    except MemoryError:
        raise DataError.of(path, "a size that does not fit into memory", "an undamaged TIFF stack") from None
    except Exception as error:  # damaged files raise any type
        found = f"a damaged file, at which tifffile fails ({type(error).__name__})"
        raise DataError.of(path, found, "a complete TIFF stack") from error
    finally:
        _LOG.removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return False


def _checked(file: TiffFile) -> tuple[list[TiffPage], int]:
    size = file.filehandle.size
    pages = [page for page in _directories(file) if not page.is_reduced]  # no thumbnails or pyramid levels
    if not pages:
        raise NotOneStackError("no page of full resolution", "a TIFF stack")
    for number, page in enumerate(pages, 1):
        check_grey(page)
        check_data(page, number, size)
    kinds = {(page.imagelength, page.imagewidth, page.bitspersample, str(page.dtype)) for page in pages}
    if len(kinds) > 1:
        raise NotOneStackError(f"pages of different (rows, columns, bits, type): {sorted(kinds)[:3]}", "equal pages")
    planes = count_slices(file, pages)
    end = pages[0].dataoffsets[0] + planes * pages[0].nbytes
    if planes > len(pages) and end > size:
        raise NotOneStackError(
            f"a file of {size} bytes that ends before its pages do (slice {planes} ends at byte {end})",
            "a complete TIFF stack",
        )
    return pages, planes


def _directories(file: TiffFile) -> list[TiffPage]:
    """Return all pages of the chain, which must end with an offset of 0."""
    fh, tiff = file.filehandle, file.tiff
    fh.seek(8 if tiff.is_bigtiff else 4)
    (offset,) = struct.unpack(tiff.offsetformat, fh.read(tiff.offsetsize))
    pages: list[TiffPage] = []
    ends: dict[int, int] = {}  # by the start of each directory
    while offset:
        if offset in ends:
            raise NotOneStackError(f"page directories that form a loop after page {len(pages)}", "a TIFF stack")
        try:
            fh.seek(offset)
            (count,) = struct.unpack(tiff.tagnoformat, fh.read(tiff.tagnosize))
            if count * tiff.tagsize > fh.size:
                raise ValueError
            entries = fh.read(count * tiff.tagsize)
            (following,) = struct.unpack(tiff.offsetformat, fh.read(tiff.offsetsize))
        except (struct.error, ValueError, OverflowError):
            raise NotOneStackError(
                f"a file of {fh.size} bytes that ends before its pages do (directory of page {len(pages) + 1} "
                f"at byte {offset})",
                "a complete TIFF stack",
            ) from None
        ends[offset] = fh.tell()
        fh.seek(offset)
        pages.append(TiffPage(file, index=len(pages)))
        codes = [struct.unpack_from(tiff.byteorder + "H", entries, k * tiff.tagsize)[0] for k in range(count)]
        check_tags(pages[-1], codes, len(pages))
        offset = following
    starts = sorted(ends)
    if any(ends[one] > other for one, other in itertools.pairwise(starts)):
        raise NotOneStackError("page directories that overlap", "an undamaged TIFF stack")
    return pages


def _decode(page: TiffPage, part: np.ndarray) -> None:
    try:
        page.asarray(out=part, maxworkers=1)
    except MemoryError:
        raise
    except Exception:  # decoders raise various types
        name = name_of(COMPRESSION, page.compression)
        raise NotOneStackError(
            f"an unreadable file (page {page.index + 1} does not decode: its {name} data are damaged or end early)",
            "a complete, undamaged TIFF stack",
        ) from None

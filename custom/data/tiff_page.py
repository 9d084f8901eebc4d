"""Checks of a TIFF page's tags: whether it is a slice of a grey stack."""

import itertools
import math
from collections.abc import Iterator
from enum import IntEnum

from tifffile import COMPRESSION, PHOTOMETRIC, SAMPLEFORMAT, TIFF, TiffPage

_TAGS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317),
    *(322, 323, 324, 325, 339, 32997, 32998),
}
"""Tags that determine size, type, location and order of the pixels."""

_SINGLE = _TAGS - {258, 270, 273, 279, 324, 325, 339}
"""Those with a single value."""

_GREY = {0: "MinIsWhite", 1: "MinIsBlack"}

_PREDICTED = {5, 8, 32946, 34925, 50000}
"""LZW, Deflate, LZMA and Zstandard; for others, readers disagree on whether a Predictor applies."""

_JPEG = 7
_NOTICE_DAMAGE = {1, 5, 8, 32773, 32946, 50013, _JPEG, 33003, 33004, 33005, 34712} | {
    *(34887, 34925, 34926, 34933, 50000, 50002, 52546),
}
"""None, LZW, Deflate, PackBits, JPEG, JPEG 2000, LERC, LZMA, Zstandard, PNG, JPEG XL: their decoders detect truncated
data. Those of fax (CCITT), JPEG XR and others fill in what is missing."""

_UNSIGNED = {False: {1, 3, 4, 13}, True: {1, 3, 4, 13, 16, 18}}
"""Tag types of integers: BYTE, SHORT, LONG, IFD, and in BigTIFF (``True``) LONG8 and IFD8."""

_TEXT = {1, 2, 7}
"""Tag types of text: BYTE, ASCII, UNDEFINED."""

_BITS = {1, 2, 4, 8, 12, 16, 24, 32, 64}

_MOST = {1: 1, 5: 4096, 8: 1100, 32946: 1100, 32773: 64}
"""Largest compression ratio, by compression; an LZW code expands to at most 4096 bytes."""


class NotOneStackError(Exception):
    """A file that is not a stack of grey pages: what was found, and what was expected."""

    def __init__(self, found: str, expected: str = "one stack of grey pages") -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


def check_tags(page: TiffPage, codes: list[int], number: int) -> None:
    """Raise if a relevant tag is unreadable, missing or duplicate; ``codes`` are the tags in the page's directory."""
    for code in _TAGS & set(codes):
        if code not in page.tags:
            raise NotOneStackError(f"an unreadable tag {TIFF.TAGS[code]} in page {number}", "an undamaged TIFF stack")
        if codes.count(code) > 1 and code != 270:  # tifffile adds a second description to the user's
            raise NotOneStackError(f"the tag {TIFF.TAGS[code]} twice in page {number}", "an undamaged TIFF stack")
        if page.tags[code].dtype not in (_TEXT if code == 270 else _UNSIGNED[page.parent.is_bigtiff]):
            found = f"the tag {TIFF.TAGS[code]} of type {page.tags[code].dtype:d} in page {number}"
            raise NotOneStackError(found, "text" if code == 270 else "unsigned integers")
        if code in _SINGLE and page.tags[code].count != 1:
            found = f"{page.tags[code].count} values of the tag {TIFF.TAGS[code]} in page {number}"
            raise NotOneStackError(found, "an undamaged TIFF stack")
    for code in (256, 257, 325 if 324 in codes else 279):
        if code not in codes:
            raise NotOneStackError(f"no tag {TIFF.TAGS[code]} in page {number}", "an undamaged TIFF stack")


def check_grey(page: TiffPage) -> None:
    """Raise if a page is not one upright grey image of real numbers."""
    photometric, samples = page.photometric, page.samplesperpixel
    if photometric == 3:
        raise NotOneStackError("a palette (colours that stand for the pixels' values)")
    if photometric not in _GREY:
        raise NotOneStackError(f"{name_of(PHOTOMETRIC, photometric)} pixels, with {samples} samples per pixel")
    if samples != 1:
        raise NotOneStackError(f"{samples} samples per pixel (colours or channels)")
    if page.planarconfig not in (1, 2):
        raise NotOneStackError(f"PlanarConfiguration {page.planarconfig!s:.20}", "1 or 2")
    if 262 not in page.tags:
        raise NotOneStackError("no tag PhotometricInterpretation", "an undamaged TIFF stack")
    orientation = page.tags.valueof(274, default=1)
    if orientation != 1:
        raise NotOneStackError(f"pages that are to be turned or flipped (Orientation {orientation})", "Orientation 1")
    _check_type(page)
    if inverted(page):
        kind = "ImageJ's inverted look-up table" if page.is_imagej else f"{page.dtype} with white as 0"
        if page.is_imagej or page.dtype.kind not in "bu" or page.bitspersample > 8:
            # ImageJ keeps the values, others invert them; the standard defines inversion for up to 8 bits.
            raise NotOneStackError(f"{kind} (MinIsWhite), which readers understand differently", "black as 0")


def check_data(page: TiffPage, number: int, size: int) -> None:
    """Raise if strips or tiles are missing, beyond the end of the file of ``size`` bytes, or too short."""
    segments = _count_segments(page)
    if min(len(page.dataoffsets), len(page.databytecounts)) < segments:
        kind = "tiles" if page.is_tiled else "strips"
        raise NotOneStackError(f"fewer {kind} in page {number} than its {segments}", "a complete TIFF stack")
    if page.compression == _JPEG:
        _check_jpeg(page, number)
    most = _MOST.get(page.compression)
    for offset, count, (least, full) in zip(page.dataoffsets, page.databytecounts, _segment_sizes(page), strict=False):
        if offset < 8 or count <= 0:  # the file's header has 8 bytes
            raise NotOneStackError(f"a strip or tile without data in page {number}", "a complete TIFF stack")
        if offset + count > size:
            found = f"a file of {size} bytes that ends before its pages do (page {number} ends at byte {offset + count}"
            raise NotOneStackError(f"{found})", "a complete TIFF stack")
        if most is not None and count * most < least:
            found = f"a strip or tile of {count} bytes in page {number}, too short for its size"
            raise NotOneStackError(found, f"{least} bytes")
        if page.compression == 1 and count > full + max(full // 8, 3):  # exceeds any padding
            found = f"a strip or tile of {count} bytes in page {number}, too long for its size and type {page.dtype}"
            raise NotOneStackError(found, f"{full} bytes")


def inverted(page: TiffPage) -> bool:
    """Whether 0 is white."""
    return page.photometric == 0


def _check_type(page: TiffPage) -> None:
    bits, dtype = page.bitspersample, page.dtype
    if dtype is None or dtype.kind not in "buif" or bits not in _BITS:
        kind = name_of(SAMPLEFORMAT, page.sampleformat)
        raise NotOneStackError(f"pixels of {bits} bits (SampleFormat {kind})", "integers or floating-point numbers")
    if 0 in page.shape or min(page.shape) < 0:
        raise NotOneStackError(f"pages of the shape {page.shape}", "at least one pixel")
    if len(page.shape) != 2:
        raise NotOneStackError(f"pages of depth {page.imagedepth}", "a page for each slice")
    name = name_of(COMPRESSION, page.compression)
    if page.compression not in _NOTICE_DAMAGE:
        found = f"the compression {name}, which is not read, as its damage would pass unnoticed"
        raise NotOneStackError(found, "LZW, Deflate, PackBits or none")
    if page.compression not in TIFF.DECOMPRESSORS:
        raise NotOneStackError(f"the compression {name}, for which there is no decoder", "pip install imagecodecs")
    if page.predictor != 1:
        fits = dtype.kind == "f" if page.predictor == 3 else page.predictor == 2 and bits in (8, 16, 32, 64)
        if not fits or page.compression not in _PREDICTED:
            found = f"the Predictor {page.predictor} for {dtype} with {name}"
            raise NotOneStackError(found, "a predictor that the TIFF standard defines")


def _check_jpeg(page: TiffPage, number: int) -> None:
    """Raise for JPEG data without an end marker: decoders fill missing data with grey."""
    file = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        file.seek(offset + max(count - 16, 0))  # some writers pad
        if not file.read(min(count, 16)).rstrip(b"\0").endswith(b"\xff\xd9"):
            raise NotOneStackError(f"JPEG data in page {number} that end early", "a complete TIFF stack")


def _count_segments(page: TiffPage) -> int:
    if page.is_tiled:
        return math.ceil(page.imagewidth / page.tilewidth) * math.ceil(page.imagelength / page.tilelength)
    return math.ceil(page.imagelength / page.rowsperstrip)


def _segment_sizes(page: TiffPage) -> Iterator[tuple[int, int]]:
    """Uncompressed bytes of each strip or tile: of the part within the page, and in total."""
    bits = page.bitspersample
    if page.is_tiled:
        size = math.ceil(page.tilewidth * bits / 8) * page.tilelength * page.tiledepth
        yield from itertools.repeat((size, size), _count_segments(page))
        return
    row = math.ceil(page.imagewidth * bits / 8)
    for start in range(0, page.imagelength, page.rowsperstrip):
        yield row * min(page.rowsperstrip, page.imagelength - start), row * page.rowsperstrip


def name_of(names: type[IntEnum], value: object) -> str:
    """Return the name of a code, or the code itself if it has none."""
    try:
        return names(value).name
    except ValueError:  # not defined by the standard
        return str(value)

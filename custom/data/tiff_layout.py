"""Number of slices of a TIFF file, according to descriptions in the file.

ImageJ, OME-TIFF and tifffile's own descriptions name the axes along which pages are counted; ImageJ and tifffile may
also write all slices after a single page directory.
"""

from collections.abc import Sequence

from tifffile import TIFF, TiffFile, TiffPage, TiffPageSeries

from .tiff_page import NotOneStackError

_PRIVATE = ("lsm", "stk", "fluoview", "micromanager", "scanimage", "mdgel")
"""Microscopy formats that describe pages or the encoding of values in private tags."""

_DEPTH = "ZIQ"
"""Axes that may count slices: depth, and tifffile's names for axes without a meaning."""


def count_slices(file: TiffFile, pages: Sequence[TiffPage]) -> int:
    """Return the number of slices of a file with these full-resolution pages, equal and grey.

    It exceeds the number of pages only if slices follow a single page.

    Raises:
        NotOneStackError: there are channels, time frames or several stacks, or description and pages disagree.
    """
    first, truncated = pages[0], False
    if file.is_ome:
        program, planes = "OME-TIFF", _described(file, pages, "ome", "OME-TIFF")
    elif file.is_imagej:
        program, planes, truncated = "ImageJ", _imagej_slices(file) or len(pages), True
    elif file.is_shaped:
        program, planes = "tifffile", _described(file, pages, "shaped", "tifffile")
        truncated = bool((file.shaped_metadata or ({},))[0].get("truncated"))
    else:
        for name in _PRIVATE:
            if getattr(first, f"is_{name}"):
                raise NotOneStackError(f"a file of the microscopy format {name}", "a TIFF stack without private axes")
        return len(pages)
    if planes != len(pages) and not (truncated and len(pages) == 1 and first.is_final):
        raise NotOneStackError(
            f"{len(pages)} {'page' if len(pages) == 1 else 'pages'}, though the {program} description says {planes} "
            "(it may be cut off)",
            f"{planes} pages",
        )
    return planes


def _imagej_slices(file: TiffFile) -> int:
    """Number of slices by ImageJ's description, of which tifffile ignores what does not fit the pages; 0 if unknown."""
    said = file.imagej_metadata
    channels, slices, frames = (said.get(key, 1) for key in ("channels", "slices", "frames"))
    images = said.get("images", said.get("slices", 0))
    if (channels, frames) != (1, 1) or type(images) is not int or images < 0 or slices not in (1, images):
        found = f"{channels!s:.20} channels, {slices!s:.20} slices and {frames!s:.20} frames for {images!s:.20} images"
        raise NotOneStackError(f"an ImageJ hyperstack of {found}", "slices alone, as many as images")
    return images if images > 1 else 0


def _described(file: TiffFile, pages: Sequence[TiffPage], kind: str, program: str) -> int:
    """Number of slices, as tifffile interprets the description."""
    try:
        series = [one for one in file.series if not (one.keyframe.is_reduced or one.keyframe.is_subifd)]
    except Exception:  # damaged descriptions raise any type
        series = []
    if not series or any(one.kind != kind or one.transform for one in series):
        raise NotOneStackError(f"a damaged {program} description, or one of other pages than these", "one that fits")
    page = pages[0].shape[-2:]
    if any(one.shape[one.axes.find("Y") :][:2] != page for one in series):
        raise NotOneStackError(f"a {program} description of other pages than {page[0]} x {page[1]} pixels", f"{page}")
    sizes = [_sizes(one) for one in series]
    if len(series) > 1:  # written page by page
        if any(sizes):
            raise NotOneStackError(f"{len(series)} stacks in one {program} file: {sizes}", "one stack")
        return len(series)
    if len(sizes[0]) > 1 or not set(sizes[0]) <= set(_DEPTH):
        axes = ", ".join(f"{TIFF.AXES_NAMES.get(axis, axis)} {length}" for axis, length in sizes[0].items())
        raise NotOneStackError(f"a {program} file with other axes than depth, rows and columns ({axes})", "one stack")
    # OME-XML may place pages in any order, also those of other files.
    if kind == "ome" and [page and page.index for page in series[0]] != [page.index for page in pages]:
        raise NotOneStackError("an OME-TIFF description of other pages, or of another order", "each page once in order")
    return next(iter(sizes[0].values()), 1)


def _sizes(series: TiffPageSeries) -> dict[str, int]:
    """Length of each axis except rows, columns and those of length 1; duplicate names get a number."""
    sizes: dict[str, int] = {}
    for axis, length in zip(series.axes, series.shape, strict=True):
        if axis not in "YX" and length != 1:
            sizes[axis if axis not in sizes else f"{axis}{len(sizes)}"] = length
    return sizes

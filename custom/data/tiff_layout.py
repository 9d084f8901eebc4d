"""Order of the pages of a TIFF file in the stack, according to descriptions in the file.

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


def page_order(file: TiffFile, pages: Sequence[TiffPage]) -> tuple[list[int], int]:
    """Return the order of the pages in the stack, and the number of slices.

    Args:
        file: the open file.
        pages: its full-resolution pages, equal and grey.

    Returns:
        indices into ``pages``, and the number of slices, which exceeds the pages only if slices follow a single page.

    Raises:
        NotOneStackError: there are channels, time frames or several stacks, or description and pages disagree.
    """
    first, present = pages[0], sum(page.imagedepth for page in pages)
    order, planes, program, truncated = list(range(len(pages))), present, "", False
    if file.is_ome:
        program = "OME-TIFF"
        order, planes = _by_series(file, pages, "ome", program)
    elif file.is_imagej:
        program = "ImageJ"
        planes, truncated = _imagej_slices(file) or present, True
    elif file.is_shaped:
        program = "tifffile"
        planes = _by_series(file, pages, "shaped", program)[1]
        truncated = bool((file.shaped_metadata or ({},))[0].get("truncated"))
    else:
        for name in _PRIVATE:
            if getattr(first, f"is_{name}"):
                raise NotOneStackError(f"a file of the microscopy format {name}", "a TIFF stack without private axes")
    if first.imagedepth > 1 and len(pages) > 1:
        raise NotOneStackError(f"{len(pages)} volumes of depth {first.imagedepth}", "one stack")
    if planes != present and not (truncated and len(pages) == 1 and first.is_final):
        raise NotOneStackError(
            f"{len(pages)} {'page' if len(pages) == 1 else 'pages'}, though the {program} description says {planes} "
            "(it may be cut off)",
            f"{planes} pages",
        )
    return order, planes


def _imagej_slices(file: TiffFile) -> int | None:
    """Number of slices according to ImageJ's description; None if it does not say."""
    said = file.imagej_metadata
    counts = {key: said.get(key, 1) for key in ("channels", "slices", "frames", "images")}
    for key, count in counts.items():
        if type(count) is not int or count < 1:
            raise NotOneStackError(f"an ImageJ description with {key}={count!s:.20}", "a number from 1")
    channels, slices, frames, images = counts.values()
    if channels > 1 or frames > 1:
        found = f"an ImageJ hyperstack of {channels} channels, {slices} slices and {frames} frames"
        raise NotOneStackError(found, "one channel and one frame, slices alone")
    if slices > 1 and "images" in said and images != slices:
        raise NotOneStackError(f"an ImageJ description of {images} images and {slices} slices", "equal numbers")
    return slices if slices > 1 else images if images > 1 else None


def _by_series(file: TiffFile, pages: Sequence[TiffPage], kind: str, program: str) -> tuple[list[int], int]:
    """Order of the pages and number of slices, as tifffile interprets the description."""
    try:
        series = [one for one in file.series if not (one.keyframe.is_reduced or one.keyframe.is_subifd)]
    except Exception:  # damaged descriptions raise any type
        series = []
    if not series or any(one.kind != kind or one.transform for one in series):
        raise NotOneStackError(f"a damaged {program} description, or one of other pages than these", "one that fits")
    page = pages[0].shape[-2:]
    sizes = [_sizes(one) for one in series]
    if any(one.shape[one.axes.find("Y") :][:2] != page for one in series):
        raise NotOneStackError(f"a {program} description of other pages than {page[0]} x {page[1]} pixels", f"{page}")
    order = list(range(len(pages)))
    if len(series) > 1:  # written page by page
        if any(sizes):
            raise NotOneStackError(f"{len(series)} stacks in one {program} file: {sizes}", "one stack")
        return order, len(series)
    if len(sizes[0]) > 1 or not set(sizes[0]) <= set(_DEPTH):
        axes = ", ".join(f"{TIFF.AXES_NAMES.get(axis, axis)} {length}" for axis, length in sizes[0].items())
        raise NotOneStackError(f"a {program} file with other axes than depth, rows and columns ({axes})", "one stack")
    if kind == "ome":
        order = _ome_order(series[0], pages)
    return order, next(iter(sizes[0].values()), 1)


def _sizes(series: TiffPageSeries) -> dict[str, int]:
    """Length of each axis except rows, columns and those of length 1; duplicate names get a number."""
    sizes: dict[str, int] = {}
    for axis, length in zip(series.axes, series.shape, strict=True):
        if axis not in "YX" and length != 1:
            sizes[axis if axis not in sizes else f"{axis}{len(sizes)}"] = length
    return sizes


def _ome_order(series: TiffPageSeries, pages: Sequence[TiffPage]) -> list[int]:
    """Order of the pages according to OME-XML, which may also place them in other files."""
    places = {page.index: k for k, page in enumerate(pages)}
    if series.is_multifile or any(page is None for page in series):
        raise NotOneStackError("an OME-TIFF of which slices are missing or lie in other files", "a single file")
    order = [places.get(page.index, -1) for page in series]
    if sorted(order) != list(range(len(pages))):
        raise NotOneStackError("an OME-TIFF description that leaves out pages or names one twice", "each page once")
    return order

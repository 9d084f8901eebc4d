"""TIFF: written by tifffile and Pillow, read by libtiff; tags are changed and read by a small decoder."""

import re
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from custom.data import read_volume

from .campaign import Format, Values

_SHAPE = (5, 18, 20)
_TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")

_OPTIONS = {  # type and tifffile's arguments
    **{f"plain_{dtype}": (dtype, {}) for dtype in _TYPES},
    **{f"swapped_{dtype}": (dtype, {"byteorder": ">"}) for dtype in ("u2", "f4", "i8")},
    "lzw": ("u1", {"compression": "lzw"}),
    "lzw_strips": ("u1", {"compression": "lzw", "rowsperstrip": 5}),
    "lzw_predictor": ("u2", {"compression": "lzw", "predictor": True}),
    "deflate": ("u1", {"compression": "zlib", "metadata": None}),
    "deflate_predictor": ("f4", {"compression": "zlib", "predictor": True}),
    "deflate_tiles": ("u1", {"compression": "zlib", "tile": (16, 16)}),
    "packbits": ("u1", {"compression": "packbits"}),
    "tiles": ("u2", {"tile": (16, 16), "metadata": None}),
    "strips": ("i2", {"rowsperstrip": 7}),
    "big": ("u2", {"bigtiff": True}),
    "big_swapped": ("u1", {"bigtiff": True, "byteorder": ">", "rowsperstrip": 4}),
    "imagej": ("u1", {"imagej": True, "metadata": {"axes": "ZYX"}}),
    "imagej_one_page": ("u2", {"imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True}),
    "ome": ("u1", {"ome": True, "metadata": {"axes": "ZYX"}}),
    "no_description": ("u1", {"metadata": None}),
    "white": ("u1", {"photometric": "miniswhite"}),
}
_PILLOW = {"1": ("raw", "packbits", "tiff_lzw"), "L": ("tiff_lzw", "raw"), "F": ("tiff_adobe_deflate",)}

_CODES = (254, 256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 339, 65000)
_KINDS = {3: "u2", 4: "u4", 16: "u8"}
"""Types of tags; others are bytes."""


class _Page(NamedTuple):
    """A page directory: its entries, their values, and the position of the next page, as views of the file."""

    entries: np.ndarray
    tags: list[np.ndarray]
    following: np.ndarray

    def tag(self, code: int, default: int | None = None) -> np.ndarray:
        found = [values for entry, values in zip(self.entries, self.tags, strict=True) if entry["code"] == code]
        return found[0] if found or default is None else np.array([default])


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write stacks of 1800 voxels with many types and layouts."""
    grey = (rng.normal(size=_SHAPE).cumsum(2) * 9 + 100).clip(0, 255)
    for name, (dtype, options) in _OPTIONS.items():
        tifffile.imwrite(folder / f"{name}.tif", grey.astype(dtype), **{"photometric": "minisblack", **options})
    with tifffile.TiffWriter(folder / "page_by_page.tif") as file:
        for page in grey.astype(np.uint8):
            file.write(page, photometric="minisblack")
            file.write(page[::2, ::2], photometric="minisblack", subfiletype=1)
    for mode, compressions in _PILLOW.items():
        stack = {"1": grey > 100, "L": grey.astype(np.uint8), "F": grey.astype(np.float32)}[mode]
        for compression in compressions:
            path = folder / f"pillow_{mode}_{compression}.tif"
            first, *others = [Image.fromarray(page) for page in stack]
            first.save(path, save_all=True, append_images=others, compression=compression)
    return sorted(folder.iterdir())


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change value, type, count or code of a tag, a digit of a description, or the chain of pages."""
    data = bytearray(content)
    pages = _pages(data)
    page = pages[rng.integers(len(pages))]
    which = int(rng.integers(len(page.entries)))
    entry, values = page.entries[which], page.tags[which]
    code, what = int(entry["code"]), rng.choice(["value", "value", "value", "kind", "count", "code", "chain"])
    if what == "chain":
        places = [int(other.following[0]) for other in pages]
        page.following[0] = value = rng.choice([0, 8, len(data), len(data) - 5, *places])
    elif what == "value" and entry["kind"] == 2:
        digits = np.flatnonzero((values >= ord("0")) & (values <= ord("9")))
        values[rng.choice(digits) if len(digits) else 0] = value = rng.integers(ord("0"), ord("9") + 1)
    elif what == "value":
        at = rng.integers(len(values))
        old = int(values[at])
        value = int(rng.choice([*range(7), 8, 16, 32, 64, old + 1, old * 2, old // 2, max(old, 1) - 1, 65535]))
        values[at] = value % 256**values.itemsize
    else:
        choices = {"kind": [0, 1, 2, 3, 4, 5, 6, 9, 11, 12, 16, 99], "count": [0, 1, 2, 3, 5, 1000, 2**31]}
        entry[what] = value = rng.choice(choices.get(what, _CODES))
    return bytes(data), f"tag {code} of one of {len(pages)} pages: {what} set to {value}"


def theirs(path: Path) -> Values:
    """Return the stack as read by libtiff, which leaves the meaning of some tags to the program.

    Raises:
        Exception: of any type, for an unsupported or damaged file.
    """
    data = path.read_bytes()
    pages = [(k, page) for k, page in enumerate(_pages(data)) if not page.tag(254, 0)[0] & 1]
    planes = []
    for k, page in pages:
        if page.tag(274, 1)[0] != 1 or page.tag(262)[0] > 1:
            raise ValueError("turned pages, or colours")
        pixels = imagecodecs.tiff_decode(data, index=k)
        planes.append(pixels if page.tag(262)[0] else ~pixels)
    first = pages[0][1]
    described = re.search(rb"(?:images|slices)=(\d+)", first.tag(270, 0).tobytes())
    if len(planes) == 1 and described:  # ImageJ writes the other pages after the first
        dtype = planes[0].dtype.newbyteorder(first.following.dtype.byteorder)
        shape = (int(described[1]), *planes[0].shape)
        return (np.frombuffer(data, dtype, int(np.prod(shape)), int(first.tag(273)[0])).reshape(shape),)
    return (np.stack(planes),)


def _pages(data: bytes | bytearray) -> list[_Page]:
    order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
    word, number, at = ("u8", "u8", 8) if 43 in data[2:4] else ("u4", "u2", 4)
    layout = np.dtype([("code", "u2"), ("kind", "u2"), ("count", word), ("value", word)]).newbyteorder(order)
    pages: list[_Page] = []
    following = np.frombuffer(data, order + word, 1, at)
    while offset := int(following[0]):
        start = offset + np.dtype(number).itemsize
        entries = np.frombuffer(data, layout, int(np.frombuffer(data, order + number, 1, offset)[0]), start)
        following = np.frombuffer(data, order + word, 1, start + entries.nbytes)
        tags = []
        for k, (_, kind, count, value) in enumerate(entries.tolist()):
            dtype = np.dtype(order + _KINDS.get(kind, "u1"))
            inline = start + (k + 1) * layout.itemsize - layout["value"].itemsize
            tags.append(np.frombuffer(data, dtype, count, value if count * dtype.itemsize > int(word[1]) else inline))
        pages.append(_Page(entries, tags, following))
        if len(pages) > 100:
            raise ValueError("a loop")
    return pages


FORMAT = Format("tiff", make, mutate, lambda path: (read_volume(path).array,), theirs)

"""TIFF: written by tifffile and Pillow, read by a small decoder or, if compressed, by Pillow.

tifffile, which the project uses, is not used for reading here.
"""

import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageSequence

from custom.data.volumes import read_volume

from .campaign import Format

_SHAPE = (5, 18, 20)
_TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")

_OPTIONS = {  # type and tifffile's arguments; Pillow must be able to read compressed files
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

_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 16: "Q"}  # supported types of tags
_KINDS = {1: "u", 2: "i", 3: "f"}
_BLOCKS = {273: (279, 278), 324: (325, 323)}  # strips, tiles: offsets -> byte counts, rows


class _Entry(NamedTuple):
    """A tag of a page: position of its entry, and its values."""

    at: int
    kind: int
    values: tuple


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write stacks of 1800 voxels with many types and layouts."""
    grey = (rng.normal(size=_SHAPE).cumsum(2) * 9 + 100).clip(0, 255)
    paths = []
    for name, (dtype, options) in _OPTIONS.items():
        paths.append(folder / f"{name}.tif")
        tifffile.imwrite(paths[-1], grey.astype(dtype), **{"photometric": "minisblack", **options})
    paths.append(folder / "page_by_page.tif")
    with tifffile.TiffWriter(paths[-1]) as file:
        for page in grey.astype(np.uint8):
            file.write(page, photometric="minisblack")
            file.write(page[::2, ::2], photometric="minisblack", subfiletype=1)
    for mode, compressions in _PILLOW.items():
        stack = {"1": grey > 100, "L": grey.astype(np.uint8), "F": grey.astype(np.float32)}[mode]
        for compression in compressions:
            paths.append(folder / f"pillow_{mode}_{compression}.tif")
            first, *others = [Image.fromarray(page) for page in stack]
            first.save(paths[-1], save_all=True, append_images=others, compression=compression)
    return paths


def mutate(path: Path, rng: np.random.Generator) -> str:
    """Change value, type, count or code of a tag, the chain of pages, or a number in the description."""
    data = bytearray(path.read_bytes())
    order, big, pages = _directories(bytes(data))
    number = int(rng.integers(len(pages)))
    tags, following = pages[number]
    code = int(rng.choice(sorted(tags)))
    entry, word = tags[code], "Q" if big else "I"
    what = rng.choice(["value", "value", "value", "type", "count", "code", "chain", "description"])
    if what == "description" and 270 in pages[0][0]:
        return _change_description(path, data, pages[0][0][270], rng)
    if what == "chain":
        value = int(rng.choice([0, 8, following, len(data), len(data) - 5, *(page[1] - 60 for page in pages)]))
        struct.pack_into(order + word, data, following, max(value, 0))
    elif what == "type":
        value = int(rng.choice([0, 1, 2, 3, 4, 5, 6, 9, 11, 12, 16, 99]))
        struct.pack_into(order + "H", data, entry.at + 2, value)
    elif what == "count":
        value = int(rng.choice([0, 1, 2, 3, 5, 1000, 2**31]))
        struct.pack_into(order + word, data, entry.at + 4, value)
    elif what == "code":
        value = int(rng.choice([254, 256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 339, 65000]))
        struct.pack_into(order + "H", data, entry.at, value)
    else:
        old = entry.values[0] if len(entry.values) == 1 and isinstance(entry.values[0], int) else 1
        value = int(rng.choice([*range(7), 8, 16, 32, 64, old + 1, old * 2, old // 2, max(old, 1) - 1, 65535]))
        layout = order + (_CODES[entry.kind] if entry.kind in (1, 3, 4, 16) else word)
        struct.pack_into(layout, data, entry.at + (12 if big else 8), value % 2 ** (8 * struct.calcsize(layout)))
    path.write_bytes(data)
    return f"tag {code} of page {number + 1}: {what} set to {value}"


def theirs(path: Path) -> np.ndarray:
    """Return the stack according to the standard; compressed pages are read by Pillow, if it supports them fully.

    Raises:
        Exception: of any type, for an unsupported or damaged file.
    """
    data = path.read_bytes()
    order, _, pages = _directories(data)
    tags = [{code: entry.values for code, entry in page.items()} for page, _ in pages]
    planes = [k for k, page in enumerate(tags) if not page.get(254, (0,))[0] & 1]
    described = re.search(rb"(?:images|slices)=(\d+)", tags[0].get(270, (b"",))[0])
    if len(planes) == 1 and described:  # ImageJ writes the other pages after the first
        first, number = tags[0], int(described[1])
        size = _one(first, 256) * _one(first, 257) * _one(first, 258, 1) // 8
        parts = [{**first, 273: (first[273][0] + k * size,)} for k in range(number)]
        return np.stack([_plain(data, order, part) for part in parts])
    return np.stack([_page(path, data, order, tags[k], k) for k in planes])


def _page(path: Path, data: bytes, order: str, page: dict, number: int) -> np.ndarray:
    if _one(page, 259, 1) == 1:
        return _plain(data, order, page)
    with Image.open(path) as image:
        pixels = np.array(ImageSequence.Iterator(image)[number])
    bits, kind = _one(page, 258, 1), _KINDS[_one(page, 339, 1)]
    expected = {(1, "u"): "?", (8, "u"): "u1", (16, "u"): "u2", (32, "f"): "f4"}[bits, kind]
    if pixels.dtype != expected or _one(page, 262) > 1 or _one(page, 274, 1) != 1:
        raise ValueError(f"Pillow changes these pixels ({pixels.dtype})")
    return pixels


def _plain(data: bytes, order: str, page: dict) -> np.ndarray:
    """Pixels of an uncompressed page."""
    bits, kind = _one(page, 258, 1), _KINDS[_one(page, 339, 1)]
    white = _one(page, 262) == 0
    if _one(page, 262) > 1 or _one(page, 277, 1) != 1 or _one(page, 274, 1) != 1 or bits not in (1, 8, 16, 32, 64):
        raise ValueError("no grey page")
    rows, columns = _one(page, 257), _one(page, 256)
    offsets = 324 if 324 in page else 273
    counts, length = _BLOCKS[offsets]
    height, width = min(_one(page, length, rows), 2**20), _one(page, 322) if offsets == 324 else columns
    across = -(-columns // width)
    pixels = np.empty((-(-rows // height) * height, across * width), f"{kind}{max(bits // 8, 1)}")
    for k in range(pixels.shape[0] // height * across):
        least = height if offsets == 324 else min(height, rows - k * height)
        size = least * (-(-width * bits // 8))
        start, count = page[offsets][k], page[counts][k]
        block = data[start : start + size]
        if start < 8 or count < size or len(block) < size:
            raise ValueError("cut off")
        top, left = k // across * height, k % across * width
        pixels[top : top + least, left : left + width] = _samples(block, order, page, least, width)
    pixels = pixels[:rows, :columns]
    return (1 if bits == 1 else 2**bits - 1) - pixels if white else pixels


def _samples(block: bytes, order: str, page: dict, rows: int, columns: int) -> np.ndarray:
    raw = np.frombuffer(block, np.uint8)
    if _one(page, 266, 1) == 2:  # FillOrder: lowest bit first
        raw = np.packbits(np.unpackbits(raw, bitorder="little"))
    bits = _one(page, 258, 1)
    if bits == 1:
        return np.unpackbits(raw.reshape(rows, -1), axis=1)[:, :columns]
    return raw.view(f"{order}{_KINDS[_one(page, 339, 1)]}{bits // 8}").reshape(rows, columns)


def _one(page: dict, code: int, default: int | None = None) -> int:
    values = page[code] if default is None else page.get(code, (default,))
    if len(values) != 1:
        raise ValueError(f"{len(values)} values of tag {code}")
    return values[0]


def _directories(data: bytes) -> tuple[str, bool, list[tuple[dict[int, _Entry], int]]]:
    """Byte order, whether it is BigTIFF, and for each page its tags and the position of the offset of the next page."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = {42: False, 43: True}[struct.unpack_from(order + "H", data, 2)[0]]
    at, number, size, word = (8, "Q", 20, "Q") if big else (4, "H", 12, "I")
    pages, seen = [], set()
    while offset := struct.unpack_from(order + word, data, at)[0]:
        if offset in seen:
            raise ValueError("a loop")
        seen.add(offset)
        count, start = struct.unpack_from(order + number, data, offset)[0], offset + struct.calcsize(number)
        at = start + count * size
        if at > len(data):
            raise ValueError("cut off")
        entries = [start + k * size for k in range(count)]
        codes = [struct.unpack_from(order + "H", data, entry)[0] for entry in entries]
        found = {code: _entry(data, order, big, entry) for code, entry in zip(codes[::-1], entries[::-1], strict=True)}
        pages.append((found, at))  # the first of duplicate codes
    return order, big, pages


def _entry(data: bytes, order: str, big: bool, at: int) -> _Entry:
    word = "Q" if big else "I"
    kind, count = struct.unpack_from(f"{order}H{word}", data, at + 2)
    place = at + (12 if big else 8)
    if kind not in _CODES:
        return _Entry(at, kind, ())
    layout = f"{order}{count}{_CODES[kind]}"
    if struct.calcsize(layout) > struct.calcsize(word):
        (place,) = struct.unpack_from(order + word, data, place)
    return _Entry(at, kind, struct.unpack_from(layout, data, place))


def _change_description(path: Path, data: bytearray, entry: _Entry, rng: np.random.Generator) -> str:
    text = entry.values[0]
    digits = [k for k, letter in enumerate(text) if letter in b"0123456789"]
    at = int(rng.choice(digits)) if digits else 0
    new = int(rng.integers(ord("0"), ord("9") + 1))
    data[data.find(text) + at] = new
    path.write_bytes(data)
    return f"byte {at} of the description set to {chr(new)}"


FORMAT = Format("tiff", make, mutate, lambda path: read_volume(path).array, theirs)

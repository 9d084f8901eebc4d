"""OME-Zarr and plain zarr arrays, read by zarr itself with axes reordered here."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc, GZip, Zlib
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from custom.scroll.ome_zarr import open_image
from custom.scroll.survey import survey

from .campaign import Format, Values

SHAPE = {"t": 1, "c": 1, "z": 12, "y": 10, "x": 14}
SCALE = {"t": 1.0, "c": 1.0, "z": 2.0, "y": 3.0, "x": 4.0}
METADATA = (".zattrs", ".zarray", ".zgroup", "zarr.json")
OTHERS = [
    *(None, True, 0, 1, 3, -1, 7, 24, 0.5, "", "0", "1", "x", "z", "c", ".", "/", "F", "|u1", "<u2"),
    *([], {}, [1, 2, 3]),
]


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write OME-Zarr 0.1, 0.3, 0.4 and 0.5, and plain arrays, with various axis orders; some chunks are missing."""
    slash = {"name": "v2", "separator": "/"}
    parts = {"chunks": (3, 3, 3), "shards": (6, 6, 6)}
    images = [
        _image(folder / "v2", "zyx", "0.4", rng, chunk_key_encoding=slash, compressors=Blosc()),
        _image(folder / "turned", "xyz", "0.4", rng, compressors=GZip(), order="F"),
        _image(folder / "texts", "yxz", "0.3", rng, chunk_key_encoding=slash, compressors=Zlib()),
        _image(folder / "old", "tczyx", "0.1", rng, compressors=None),
        _image(folder / "v3", "zyx", "0.5", rng, compressors=[ZstdCodec(), Crc32cCodec()]),
        _image(folder / "shards", "zxy", "0.5", rng, **parts, compressors=BloscCodec()),
        _image(folder / "channel", "czyx", "0.5", rng, compressors=GzipCodec()),
        _array(folder, "bare2", "zyx", rng, zarr_format=2, compressors=Blosc(cname="lz4")),
        _array(folder, "bare3", "xyz", rng, dimension_names=list("xyz"), **parts),
    ]
    for image in (images[0], images[4]):
        sorted(file for file in image.rglob("*") if file.is_file() and file.name not in METADATA)[3].unlink()
    return images


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change one entry of the metadata."""
    metadata = json.loads(content)
    places = list(_places(metadata))
    if not places:
        return content, "nothing"
    holder, key = places[rng.integers(len(places))]
    before = holder[key]
    kind = rng.choice(["remove", "change", "swap"], p=[0.3, 0.5, 0.2])
    if kind == "swap" and isinstance(before, list) and len(before) > 1:
        holder[key] = rng.permutation(np.array(before, object)).tolist()
        what = f"items of {key!r} permuted"
    elif kind == "remove":
        del holder[key]
        what = f"{key!r} removed"
    else:
        holder[key] = OTHERS[rng.integers(len(OTHERS))]
        what = f"{key!r} changed from {before!r} to {holder[key]!r}"
    return json.dumps(metadata).encode(), what


def ours(path: Path) -> Values:
    """Return voxels, voxel size, origin, and the reported number of missing chunks."""
    image = open_image(str(path))
    found = survey(image, tuple((0, length) for length in image.array.shape))
    values = image.array[...]
    if len(image.store.missing) != found.missing:
        raise AssertionError(f"{found.missing} chunks missing before, {len(image.store.missing)} while reading")
    return values, np.array(image.space.scale), np.array(image.space.origin), np.array(found.missing)


def theirs(path: Path) -> Values:
    """Return the same, using zarr."""
    found, image = zarr.open(path, mode="r"), {}
    if isinstance(found, zarr.Group):
        attributes = found.attrs.asdict()
        image = attributes.get("ome", attributes)["multiscales"][0]
        found = found[image["datasets"][0]["path"]]
        default = "tczyx" if found.ndim == 5 else "zyx"
        names = [axis if isinstance(axis, str) else axis["name"] for axis in image.get("axes", default)]
    else:
        names = list(getattr(found.metadata, "dimension_names", None) or "zyx")
    if found.dtype != np.uint8 or sorted(set(names) - set("tc")) != ["x", "y", "z"] or len(set(names)) != found.ndim:
        raise ValueError("no volume")
    folder = path / found.path
    stated = found.metadata.zarr_format == 3 or "dimension_separator" in json.loads((folder / ".zarray").read_text())
    if not stated and any(part.is_dir() for part in folder.iterdir()):
        raise ValueError("zarr would read no chunk")
    steps = image["datasets"][0].get("coordinateTransformations", []) if image else []
    scale, origin = np.ones(found.ndim), np.zeros(found.ndim)
    for step in steps + image.get("coordinateTransformations", []):
        if step["type"] == "scale":
            scale, origin = scale * step["scale"], origin * step["scale"]
        elif step["type"] == "translation":
            origin = origin + step["translation"]
    stored = found.shards or found.chunks
    positions = product(*(range(-(-length // step)) for length, step in zip(found.shape, stored, strict=True)))
    missing = sum(not (folder / found.metadata.encode_chunk_key(position)).is_file() for position in positions)
    if any(length != 1 for name, length in zip(names, found.shape, strict=True) if name not in "zyx"):
        raise ValueError("no single volume")
    order = [names.index(name) for name in "zyx"]
    others = [axis for axis in range(found.ndim) if axis not in order]
    values = np.squeeze(found[...].transpose([*others, *order]), axis=tuple(range(len(others))))
    return values, scale[order], origin[order], np.array(missing)


def _image(path: Path, axes: str, version: str, rng: np.random.Generator, **options: Any) -> Path:
    zarr_format = 3 if version == "0.5" else 2
    group = zarr.create_group(path, zarr_format=zarr_format)
    _array(group.store_path.store.root, "0", axes, rng, zarr_format=zarr_format, **options)
    scale = {"type": "scale", "scale": [SCALE[name] for name in axes]}
    shift = {"type": "translation", "translation": [5 * SCALE[name] for name in axes]}
    image = {"name": "volume", "datasets": [{"path": "0"}]}
    if version in ("0.4", "0.5"):
        image["axes"] = [{"name": name, "type": "space", "unit": "micrometer"} for name in axes]
        image["datasets"][0]["coordinateTransformations"] = [scale, shift]
        image["coordinateTransformations"] = [scale]
    elif version == "0.3":
        image["axes"] = list(axes)
    if zarr_format == 3:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image | {"version": version}]
    return path


def _array(folder: Path, name: str, axes: str, rng: np.random.Generator, **options: Any) -> Path:
    values = rng.integers(1, 255, [SHAPE[axis] for axis in axes]).astype(np.uint8)
    chunks = tuple(min(6, length) for length in values.shape)
    defaults = {"chunks": chunks, "fill_value": int(rng.integers(0, 3)), "zarr_format": 3}
    array = zarr.create_array(folder, name=name, shape=values.shape, dtype=np.uint8, **defaults | options)
    array[...] = values
    return folder / name


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """All entries of nested lists and dictionaries, as container and key."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


FORMAT = Format("ome_zarr", make, mutate, ours, theirs, headers=METADATA)

"""OME-Zarr: reads scrolls in zarr v2 and v3, writes version 0.5 with shards and a pyramid.

Specification: https://ngff.openmicroscopy.org/0.5/
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.array import AsyncArray
from zarr.core.sync import sync

from ..errors import DataError
from ..ops.windows import Box
from .blocks import CHUNK, halve
from .pyramid import Pyramid, level_count
from .space import NAMES, Space, find_image, find_order, read_space, unnamed_order
from .stores import PatientStore, open_store
from .volume import Volume

VERSION = "0.5"
PROGRESS = ".progress/"
"""Folder in the output with a small marker for each finished shard of all levels; zarr readers ignore it."""
EMPTY_MARK = ".empty"
"""Suffix of markers of shards that are not stored, since they contain only 0."""
MOST_CHUNKS = 2**40
"""More are a sign of damaged metadata."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Image:
    """The finest level of a uint8 volume, the store of its chunks, and its coordinate system."""

    array: Volume
    store: PatientStore
    space: Space


def open_image(url: str) -> Image:
    """Open an OME-Zarr image, or a single zarr array, of zarr format 2 or 3.

    Raises:
        DataError: it cannot be read, is not a uint8 volume, or has unsupported axes.
    """
    store = open_store(url, read_only=True)
    try:
        found, described = zarr.open(store, mode="r"), None
        if isinstance(found, zarr.Group):
            described = find_image(found.attrs.asdict(), url, partial(_members, found))
            found = found[described["path"]]
        names = _dimension_names(found)
    except DataError:
        raise
    except Exception as error:  # stores and fsspec packages raise various types
        reason = f"nothing that opens ({type(error).__name__}: {error})"
        raise DataError.of(url, reason, "an OME-Zarr image or a zarr array") from error
    if not isinstance(found, zarr.Array):
        raise DataError.of(url, f"a group at {described['path']!r}", "an array")
    if found.ndim < 3 or found.dtype != np.uint8:
        what = f"{found.dtype} {found.shape}"
        raise DataError.of(url, what, "a uint8 array of three axes (z, y, x); convert others as the training data were")
    lengths = zip(found.shape, found.chunks, strict=True)
    if 0 in (*found.shape, *found.chunks) or prod(-(-length // chunk) for length, chunk in lengths) > MOST_CHUNKS:
        raise DataError.of(url, f"shape {found.shape} in chunks of {found.chunks}", "a volume with voxels")
    if described is not None:
        space = read_space(described, found.shape, names, url)
    else:
        known = names is not None and {str(name).lower() for name in names} & {*NAMES}
        space = Space(find_order(names, found.shape, url) if known else unnamed_order(found.shape, url))
    return Image(_with_separator(Volume(found, space.order, url), store), store, space)


def _members(group: zarr.Group) -> list[str]:
    """Names in a group, if its store can list them."""
    try:
        return sorted(group.keys())
    except Exception:  # a web server without listings
        return []


def _dimension_names(array: zarr.Array | zarr.Group) -> list[str] | None:
    """Axis names of an array itself: of zarr v3, or as written by xarray in v2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return [str(name) for name in names] if isinstance(names, list | tuple) and None not in names else None


def _with_separator(volume: Volume, store: PatientStore) -> Volume:
    """Return the volume with the dimension separator of its chunk keys, if the metadata lack it.

    Zarr v2 defaults to a dot; nested folders without this entry would be read as missing chunks.
    """
    metadata = volume.array.metadata
    if metadata.zarr_format != 2:
        return volume
    try:
        stated = "dimension_separator" in json.loads(store.read(f"{volume.array.store_path.path}/.zarray".lstrip("/")))
    except FileNotFoundError:  # only consolidated metadata
        stated = False
    if stated or store.versions(volume.sample()[0]):
        return volume
    nested = type(metadata).from_dict(metadata.to_dict() | {"dimension_separator": "/"})
    array = zarr.Array(AsyncArray(metadata=nested, store_path=volume.array.store_path))
    other = replace(volume, array=array)
    return other if store.versions(other.sample()[0]) else volume


def read_prediction(url: str) -> tuple[Image, bool]:
    """Open a finished prediction, and return whether it is a mask of 0 and 1 rather than probabilities from 0 to 255.

    Raises:
        DataError: it is not a prediction, or incomplete.
    """
    image = open_image(url)
    found = zarr.open(image.store, mode="r").attrs.asdict().get("prediction")
    if not isinstance(found, dict) or not {"kind", "shape", "chunk", "shard"} <= found.keys():
        raise DataError.of(url, "no prediction", "one that scripts/predict_scroll.py has written")
    mask = found["kind"] == "mask"
    output = Output(url, shape=found["shape"], chunk=found["chunk"], shard=found["shard"], mask=mask)
    done, total = len(output.done(0)), len(output.level_shards(0))
    if done < total:
        raise DataError.of(url, f"{done} of {total} shards written", "a prediction that is finished: run it again")
    return image, mask


def write_image(url: str, array: np.ndarray, *, chunk: int = CHUNK, mask: bool = False) -> None:
    """Write a uint8 volume ``(D, H, W)`` with its pyramid as OME-Zarr 0.5, replacing existing data.

    Coarse voxels of a mask are the maximum instead of the mean.
    """
    group = zarr.create_group(open_store(url, read_only=False), overwrite=True)
    levels = level_count(array.shape, chunk)
    group.attrs["ome"] = {"version": VERSION, "multiscales": [_metadata("scroll", levels, Space(), (0, 0, 0))]}
    for number in range(levels):
        level = group.create_array(
            str(number),
            shape=array.shape,
            chunks=tuple(min(chunk, length) for length in array.shape),
            dtype=np.uint8,
            fill_value=0,
            dimension_names=NAMES,
        )
        level[...] = array
        array = halve(array, mask=mask)


class Output(Pyramid):
    """A prediction being written: arrays of all levels, and which of their shards are finished.

    Voxels of a ``mask`` are 0 and 1 rather than probabilities; for the other arguments see :class:`.pyramid.Pyramid`.
    """

    def __init__(self, url: str, *, shape: Sequence[int], chunk: int, shard: int, mask: bool) -> None:
        super().__init__(shape, chunk, shard)
        self.url = url
        self.store = open_store(url, read_only=False)
        self.mask = mask
        self._arrays: dict[int, zarr.Array] = {}

    def create(
        self,
        settings: dict[str, Any],
        space: Space = Space(),  # noqa: B008
        offset: Sequence[int] = (0, 0, 0),
        *,
        source: str | None = None,
        overwrite: bool = False,
        same_input: bool = False,
    ) -> None:
        """Write the metadata of all levels, or check that an existing prediction is the same.

        Args:
            settings: everything that determines the result; stored in the group's attribute ``prediction``.
            space: coordinate system of the input.
            offset: position of the output in its input, in voxels.
            source: location of the input; only recorded.
            overwrite: whether to delete an existing prediction.
            same_input: whether to accept another entry ``input`` in an existing prediction's settings.

        Raises:
            DataError: the destination holds something else.
        """
        layout = {"shape": list(self.shape), "chunk": self.chunk, "shard": self.shard}
        settings = json.loads(json.dumps(settings | layout))  # with the types of JSON, for comparison
        metadata = _metadata("prediction", self.levels, space, offset)
        metadata |= {"type": "max" if self.mask else "mean"}
        record = settings if source is None else settings | {"source": source}
        attributes = {"ome": {"version": VERSION, "multiscales": [metadata]}, "prediction": record}
        if self._is_begun(settings, overwrite=overwrite, same_input=same_input):
            self._unmark_lost_shards()
        else:
            zarr.create_group(self.store, attributes=attributes)
        for level in range(self.levels):
            if not sync(self.store.exists(f"{level}/zarr.json")):
                self._create_level(level)

    def done(self, level: int) -> set[tuple[int, ...]]:
        """Return the positions of a level's finished shards."""
        names = self.store.names(f"{PROGRESS}{level}/")
        return {tuple(map(int, name.removesuffix(EMPTY_MARK).split("."))) for name in names}

    def write(self, position: Sequence[int], values: np.ndarray) -> None:
        """Write one shard of level 0, uint8, with its coarser levels, and then the marker."""
        stored = []
        for level in range(self.inner_levels):
            stored += [level] * self._write_shard(level, position, values)
            values = halve(values, mask=self.mask)
        self._mark(0, position, stored)

    def write_coarse(self, level: int, position: Sequence[int]) -> None:
        """Compute one shard of a level from the level before."""
        edge = 2 * self.level_shard(level)
        box = tuple(slice(place * edge, (place + 1) * edge) for place in position)
        values = halve(self.array(level - 1)[box], mask=self.mask)
        self._mark(level, position, [level] * self._write_shard(level, position, values))

    def array(self, level: int) -> zarr.Array:
        if level not in self._arrays:
            self._arrays[level] = zarr.open_array(self.store, path=str(level), mode="r+")
        return self._arrays[level]

    def positions(self, box: Box) -> list[tuple[int, ...]]:
        """Return the shards of level 0 in a box of whole shards."""
        spans = [range(start // self.shard, -(-stop // self.shard)) for start, stop in box]
        return [(z, y, x) for z in spans[0] for y in spans[1] for x in spans[2]]

    def _write_shard(self, level: int, position: Sequence[int], values: np.ndarray) -> bool:
        """Write a shard, unless it contains only 0, as missing ones do; returns whether it was written."""
        if not values.any():
            return False
        edge = self.level_shard(level)
        box = tuple(
            slice(place * edge, place * edge + length) for place, length in zip(position, values.shape, strict=True)
        )
        self.array(level)[box] = values
        return True

    def _mark(self, level: int, position: Sequence[int], stored: list[int]) -> None:
        """Mark a shard as finished, with the levels at which it is stored."""
        name = ".".join(map(str, position)) + EMPTY_MARK * (not stored)
        self.store.put(f"{PROGRESS}{level}/{name}", json.dumps({"stored": stored}).encode())

    def _unmark_lost_shards(self) -> None:
        """Remove the markers of missing shards, for example after an incomplete copy."""
        for level in range(self.levels):
            folder = f"{PROGRESS}{level if level >= self.inner_levels else 0}/"
            there = set(self.store.names(f"{level}/c/"))
            marks = [name for name in self.store.names(folder) if not name.endswith(EMPTY_MARK)]
            absent = [folder + name for name in marks if name.replace(".", "/") not in there]
            lost = [marker for marker in absent if self._was_stored(level, marker)]
            if lost:
                logger.warning("%s: %d shards of level %d are gone; they are made again", self.url, len(lost), level)
            for marker in lost:
                self.store.remove(marker)

    def _was_stored(self, level: int, marker: str) -> bool:
        """Whether a shard was stored at a level, by its marker; earlier versions did not record those beyond 0."""
        inner = 0 < level < self.inner_levels
        return not inner or level in json.loads(self.store.read(marker)).get("stored", [])

    def _create_level(self, level: int) -> None:
        zarr.create_array(
            self.store,
            name=str(level),
            shape=self.level_shape(level),
            chunks=(self.chunk,) * 3,
            shards=(self.level_shard(level),) * 3,
            dtype=np.uint8,
            fill_value=0,
            compressors=ZstdCodec(level=3),
            dimension_names=NAMES,
        )

    def _is_begun(self, settings: dict[str, Any], *, overwrite: bool, same_input: bool) -> bool:
        """Whether the output exists and was begun with the same settings."""
        try:
            group = zarr.open(self.store, mode="r+")
            found = group.attrs.asdict().get("prediction")
        except FileNotFoundError:
            if self.store.children():
                raise DataError.of(self.url, "files that are no zarr group", "a new or empty place") from None
            return False
        except Exception as error:  # zarr raises various types for damaged metadata
            reason = f"nothing that opens ({type(error).__name__}: {error})"
            raise DataError.of(self.url, reason, "a new location, or a prediction to continue") from error
        if not isinstance(found, dict):
            raise DataError.of(self.url, "zarr data that is no prediction of a scroll", "a new place")
        if overwrite:
            self.store.remove_all()
            return False
        accepted = {"input": settings.get("input")} if same_input else {}
        for key, before, now in _differences(found | accepted, settings):
            hint = "another output, or --overwrite True to begin anew"
            if key.startswith("input"):
                hint += ", or --same_input True if it only was copied, or chunks that could not be read were repaired"
            raise DataError.of(self.url, f"a prediction with {key} {before!r}", f"{now!r}; {hint}")
        if accepted:
            group.attrs["prediction"] = found | accepted
        return True


def _differences(found: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield settings that differ from a record, by name, with both values."""
    for key, value in expected.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(other, {name: None for name in other} | value, f"{prefix}{key} ")
        elif other != value:
            yield f"{prefix}{key}", other, value


def _metadata(name: str, levels: int, space: Space, offset: Sequence[int]) -> dict[str, Any]:
    """One entry of ``multiscales``. A voxel of level k is at the centre of its level-0 voxels."""
    axes = [
        {"name": axis, "type": "space"} | ({"unit": unit} if unit else {})
        for axis, unit in zip(NAMES, space.units, strict=True)
    ]
    datasets = []
    for level in range(levels):
        size = [2**level * length for length in space.scale]
        corner = [
            place + length * (first + (2**level - 1) / 2)
            for place, length, first in zip(space.origin, space.scale, offset, strict=True)
        ]
        transforms = [{"type": "scale", "scale": size}, {"type": "translation", "translation": corner}]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    return {"name": name, "axes": axes, "datasets": datasets}

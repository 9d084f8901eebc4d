"""OME-Zarr: scrolls of zarr v2 and v3 in; version 0.5, sharded and with a pyramid, out.

Specification: https://ngff.openmicroscopy.org/0.5/
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync

from ..errors import DataError
from ..ops.windows import Box
from .blocks import CHUNK, halve
from .pyramid import Pyramid, level_count
from .stores import PatientStore, open_store

VERSION = "0.5"
PROGRESS = ".progress/"
"""Below the output: an empty object for each shard that is written, pyramid included. Readers of zarr ignore it."""


@dataclass(frozen=True)
class Image:
    """The finest level of a volume.

    Attributes:
        array: uint8 ``(D, H, W)``.
        store: where its chunks come from.
        scale: (D, H, W) size of a voxel, in ``unit``.
        unit: ``"micrometer"``, ...; None if the file does not say.
    """

    array: zarr.Array
    store: PatientStore
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str | None = None


def open_image(url: str) -> Image:
    """Open an OME-Zarr image, or a single array of zarr, of version 2 or 3.

    Raises:
        DataError: nothing there that can be read, or no uint8 volume of three axes.
    """
    store = open_store(url, read_only=True)
    try:
        found = zarr.open(store, mode="r")
        scale, unit = (1.0, 1.0, 1.0), None
        if isinstance(found, zarr.Group):
            multiscales = _multiscales(found, url)
            found, scale, unit = found[multiscales["datasets"][0]["path"]], *_space(multiscales)
    except DataError:
        raise
    except Exception as error:  # every store and every fsspec package has errors of its own
        reason = f"nothing that opens ({type(error).__name__}: {error})".replace("\n", " ")
        raise DataError.of(url, reason, "an OME-Zarr image or a zarr array") from error
    if not isinstance(found, zarr.Array) or found.ndim != 3 or found.dtype != np.uint8:
        what = f"{found.dtype} {found.shape}" if isinstance(found, zarr.Array) else "a group"
        raise DataError.of(url, what, "a uint8 array of three axes (z, y, x)")
    return Image(found, store, scale, unit)


def is_mask(url: str) -> bool:
    """Whether a prediction's voxels are 0 and 1 rather than probabilities from 0 to 255."""
    attributes = zarr.open(open_store(url, read_only=True), mode="r").attrs.asdict()
    return attributes.get("prediction", {}).get("kind") == "mask"


def write_image(
    url: str,
    array: np.ndarray,
    *,
    chunk: int = CHUNK,
    zarr_format: int = 3,
    scale: float = 1.0,
    unit: str | None = "micrometer",
    mask: bool = False,
) -> None:
    """Write a uint8 volume ``(D, H, W)`` with its pyramid as OME-Zarr: phantoms, and volumes out of TIFF stacks.

    Args:
        url: where to; what is there is replaced.
        array: the volume.
        chunk: edge of the chunks of every level, in voxels.
        zarr_format: 3 makes OME-Zarr 0.5, 2 makes 0.4.
        scale: edge of a voxel.
        unit: of the scale; ``None``: unknown.
        mask: whether coarse voxels are the largest rather than the mean of those that they stand for.
    """
    store = open_store(url, read_only=False)
    group = zarr.create_group(store, zarr_format=zarr_format, overwrite=True)
    encoding = {"name": "default", "separator": "/"} if zarr_format == 3 else {"name": "v2", "separator": "/"}
    names = ["z", "y", "x"] if zarr_format == 3 else None
    levels = level_count(array.shape, chunk)
    metadata = _metadata("scroll", levels, (scale,) * 3, (0, 0, 0), unit)
    for number in range(levels):
        level = group.create_array(
            str(number),
            shape=array.shape,
            chunks=tuple(min(chunk, length) for length in array.shape),
            dtype=np.uint8,
            fill_value=0,
            chunk_key_encoding=encoding,
            dimension_names=names,
        )
        level[...] = array
        array = halve(array, mask=mask)
    if zarr_format == 3:
        group.attrs["ome"] = {"version": VERSION, "multiscales": [metadata]}
    else:
        group.attrs["multiscales"] = [metadata | {"version": "0.4"}]


class Output(Pyramid):
    """A prediction on its way: arrays of all levels, and which shards of them are written.

    Args:
        url: of the group.
        shape: (D, H, W) of level 0.
        chunk: edge of the chunks of every level, in voxels.
        shard: edge of the shards of level 0; ``chunk`` times a power of two.
        mask: whether voxels are 0 and 1 rather than probabilities.
    """

    def __init__(self, url: str, *, shape: Sequence[int], chunk: int, shard: int, mask: bool) -> None:
        super().__init__(shape, chunk, shard)
        self.url = url
        self.store = open_store(url, read_only=False)
        self.mask = mask
        self._arrays: dict[int, zarr.Array] = {}

    def create(self, settings: dict[str, Any], scale: Sequence[float], offset: Sequence[int], unit: str | None) -> None:
        """Write the metadata of all levels, or make sure that those there are of the same prediction.

        Args:
            settings: what the values depend on; kept in the group's attribute ``prediction``.
            scale: (D, H, W) size of a voxel.
            offset: where the output lies in its input, in voxels.
            unit: of the scale.

        Raises:
            DataError: something else is there already.
        """
        layout = {"shape": list(self.shape), "chunk": self.chunk, "shard": self.shard}
        settings = json.loads(json.dumps(settings | layout))  # as it will be read again
        metadata = _metadata("prediction", self.levels, scale, offset, unit) | {"type": "max" if self.mask else "mean"}
        attributes = {"ome": {"version": VERSION, "multiscales": [metadata]}, "prediction": settings}
        if not self._begun(settings):
            zarr.create_group(self.store, attributes=attributes)
        for level in range(self.levels):
            if not sync(self.store.exists(f"{level}/zarr.json")):
                self._create_level(level)

    def done(self, level: int) -> set[tuple[int, ...]]:
        """Positions of the shards of a level that are written."""
        return {tuple(map(int, name.split("."))) for name in self.store.names(f"{PROGRESS}{level}/")}

    def write(self, position: Sequence[int], values: np.ndarray) -> None:
        """Write one shard of level 0 and what follows from it, then the marker: from then on it is done.

        Args:
            position: of the shard, counted in shards.
            values: uint8, of the shard's shape; less at the far borders.
        """
        for level in range(self.inner_levels):
            self._write_shard(level, position, values)
            values = halve(values, mask=self.mask)
        self._mark(0, position)

    def write_coarse(self, level: int, position: Sequence[int]) -> None:
        """Make one shard of a level out of the level before."""
        edge = 2 * self.level_shard(level)
        box = tuple(slice(place * edge, (place + 1) * edge) for place in position)
        self._write_shard(level, position, halve(self.array(level - 1)[box], mask=self.mask))
        self._mark(level, position)

    def array(self, level: int) -> zarr.Array:
        """The array of one level."""
        if level not in self._arrays:
            self._arrays[level] = zarr.open_array(self.store, path=str(level), mode="r+")
        return self._arrays[level]

    def positions(self, box: Box) -> list[tuple[int, ...]]:
        """The shards of level 0 that a box of whole shards holds."""
        spans = [range(start // self.shard, -(-stop // self.shard)) for start, stop in box]
        return [(z, y, x) for z in spans[0] for y in spans[1] for x in spans[2]]

    def _write_shard(self, level: int, position: Sequence[int], values: np.ndarray) -> None:
        if values.any():  # an absent shard is 0
            edge = self.level_shard(level)
            box = tuple(
                slice(place * edge, place * edge + length) for place, length in zip(position, values.shape, strict=True)
            )
            self.array(level)[box] = values

    def _mark(self, level: int, position: Sequence[int]) -> None:
        self.store.put(f"{PROGRESS}{level}/{'.'.join(map(str, position))}", b"{}")

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
            dimension_names=["z", "y", "x"],
        )

    def _begun(self, settings: dict[str, Any]) -> bool:
        """Whether the output is there, begun with the same settings."""
        try:
            found = zarr.open(self.store, mode="r").attrs.asdict().get("prediction")
        except FileNotFoundError:
            return False
        if found is None:
            raise DataError.of(self.url, "zarr data that is no prediction of a scroll", "a new place")
        for key in settings:
            if found.get(key) != settings[key]:
                raise DataError.of(self.url, f"a prediction with {key} {found.get(key)!r}", f"{settings[key]!r}")
        return True


def _multiscales(group: zarr.Group, url: str) -> dict[str, Any]:
    attributes = group.attrs.asdict()
    found = attributes.get("ome", attributes).get("multiscales")
    if not found:
        raise DataError.of(url, f"a zarr group without multiscales, with {sorted(group.keys())}", "an OME-Zarr image")
    return found[0]


def _space(multiscales: dict[str, Any]) -> tuple[tuple[float, ...], str | None]:
    """Size of a voxel of the finest level, and its unit."""
    transforms = multiscales["datasets"][0].get("coordinateTransformations", [])
    transforms = transforms + multiscales.get("coordinateTransformations", [])
    scale = np.prod(
        [t["scale"] for t in transforms if t.get("type") == "scale" and "scale" in t] or [[1.0] * 3], axis=0
    )
    units = {axis.get("unit") for axis in multiscales.get("axes", []) if isinstance(axis, dict)}
    return tuple(map(float, scale)), units.pop() if len(units) == 1 else None


def _metadata(
    name: str, levels: int, scale: Sequence[float], offset: Sequence[int], unit: str | None
) -> dict[str, Any]:
    """One entry of ``multiscales``. A voxel of level k lies at the centre of those of level 0 that it stands for."""
    axes = [{"name": axis, "type": "space"} | ({"unit": unit} if unit else {}) for axis in "zyx"]
    datasets = []
    for level in range(levels):
        size = [2**level * length for length in scale]
        corner = [length * (first + (2**level - 1) / 2) for length, first in zip(scale, offset, strict=True)]
        transforms = [{"type": "scale", "scale": size}, {"type": "translation", "translation": corner}]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    return {"name": name, "axes": axes, "datasets": datasets}

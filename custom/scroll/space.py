"""Coordinate system of an OME-Zarr image: axes, voxel size and origin.

Specification: https://ngff.openmicroscopy.org/0.5/#multiscale-md, and its earlier versions from 0.1 on.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError

NAMES = ("z", "y", "x")
VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")
WITHOUT_AXES = (None, "0.1", "0.2")
"""Versions without the entry ``axes``: five axes are t, c, z, y, x."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """The spatial axes of an array, and its coordinates along z, y and x."""

    order: tuple[int, int, int] = (0, 1, 2)
    """Which axes of the array are z, y and x; all others have length 1."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Size of a voxel."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of the first voxel."""
    units: tuple[str | None, str | None, str | None] = (None, None, None)
    """Units of these, such as ``"micrometer"``; None if unknown."""


def find_image(attributes: Mapping[str, Any], url: str, members: Callable[[], Sequence[str]] = list) -> dict[str, Any]:
    """Return the entry of ``multiscales`` in a group's attributes, with ``version`` and ``path`` of its finest level.

    ``members`` returns the names in the group, for messages.

    Raises:
        DataError: there is none, or it does not conform to any version of the specification.
    """
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, Mapping) else None
    if not isinstance(found, list) or not found or not isinstance(found[0], Mapping):
        raise DataError.of(url, f"a zarr group without multiscales, with {members()}", "an OME-Zarr image")
    if len(found) > 1:
        logger.warning("%s: %d images in one group; the first is taken", url, len(found))
    version = ome.get("version") if ome is not attributes else found[0].get("version")
    if version is not None and version not in VERSIONS:
        raise DataError.of(url, f"OME-Zarr of version {version!r}", f"one of {', '.join(VERSIONS)}")
    datasets = found[0].get("datasets")
    if not isinstance(datasets, list) or not datasets or not all(isinstance(level, Mapping) for level in datasets):
        raise DataError.of(url, f"datasets {datasets!r}", "a list of levels, each with its path")
    path = datasets[0].get("path")
    if not isinstance(path, str) or not path:
        raise DataError.of(url, f"a level whose path is {path!r}", "the name of an array")
    return {**found[0], "version": version, "path": path}


def read_space(image: Mapping[str, Any], shape: Sequence[int], named: Sequence[str | None] | None, url: str) -> Space:
    """Return the coordinate system of the finest level of an image from :func:`find_image`.

    Args:
        image: the entry of ``multiscales``.
        shape: of that level's array.
        named: the array's own dimension names, if any (zarr v3).
        url: for messages.

    Raises:
        DataError: unsupported axes or transformations.
    """
    axes = image.get("axes")
    if axes is None:
        axes = _axes_of_old(image["version"], shape, url)
    if not isinstance(axes, list) or not all(isinstance(axis, str | Mapping) for axis in axes):
        raise DataError.of(url, f"axes {axes!r}", "a list of axes")
    names = [axis if isinstance(axis, str) else axis.get("name") for axis in axes]
    order = find_order(names, shape, url)
    if named is not None and sorted(map(str, named)) == sorted(map(str, names)) and list(named) != names:
        raise DataError.of(url, f"axes {names} of an array with dimensions {list(named)}", "the same order in both")
    finest, *coarser = image["datasets"]
    scale, origin = _transformed([finest, image], len(shape), url)  # the level's transformations are applied first
    first = _transformed([finest], len(shape), url)[0]
    for level in coarser:  # else a coarser level than the finest would be predicted
        other = _transformed([level], len(shape), url)[0]
        if any(other[axis] < first[axis] for axis in order):
            raise DataError.of(url, f"level {level.get('path')!r} finer than the first", "the finest level first")
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in axes]
    return Space(order, *(tuple(values[axis] for axis in order) for values in (scale, origin, units)))


def find_order(names: Sequence[Any], shape: Sequence[int], url: str) -> tuple[int, int, int]:
    """Return which of an array's axes are z, y and x.

    Raises:
        DataError: one of them is missing or duplicate, or another axis is longer than 1.
    """
    expected = "z, y and x once each, in any order, beside axes of length 1"
    lower = [name.lower() if isinstance(name, str) else name for name in names]
    if len(names) != len(shape) or any(lower.count(name) != 1 for name in NAMES):
        raise DataError.of(url, f"axes {list(names)} of an array of shape {tuple(shape)}", expected)
    for name, length in zip(names, shape, strict=True):
        if str(name).lower() not in NAMES and length != 1:
            raise DataError.of(url, f"an axis {name!r} of length {length} among the axes {list(names)}", expected)
    z, y, x = (lower.index(name) for name in NAMES)
    return z, y, x


def unnamed_order(shape: Sequence[int], url: str) -> tuple[int, int, int]:
    """Return the axes of an array without axis names: z, y, x by convention.

    Raises:
        DataError: there are not three axes.
    """
    if len(shape) != 3:
        raise DataError.of(url, f"an array of shape {tuple(shape)} without names of its axes", "three axes (z, y, x)")
    logger.warning("%s: names no axes; they are taken for z, y, x", url)
    return 0, 1, 2


def _axes_of_old(version: str | None, shape: Sequence[int], url: str) -> list[str]:
    if version not in WITHOUT_AXES:
        expected = "the entry 'axes'; an array given by itself is taken for z, y, x"
        raise DataError.of(url, f"OME-Zarr of version {version} without axes", expected)
    if len(shape) == 5:
        return list("tczyx")
    unnamed_order(shape, url)
    return list(NAMES)


def _transformed(holders: Sequence[Mapping[str, Any]], count: int, url: str) -> tuple[list[float], list[float]]:
    """Scale and origin along ``count`` axes after the transformations of each holder, one after another."""
    scale, origin = np.ones(count), np.zeros(count)
    for holder in holders:
        steps = holder.get("coordinateTransformations", [])
        if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
            raise DataError.of(url, f"coordinateTransformations {steps!r}", "a list of transformations")
        for step in steps:
            kind = step.get("type")
            if kind == "identity":
                continue
            values = step.get(kind) if kind in ("scale", "translation") else None
            if not (
                isinstance(values, list)
                and len(values) == count
                and all(type(value) in (int, float) and math.isfinite(value) for value in values)
                and (kind == "translation" or min(values) > 0)
            ):
                expected = f"a scale above 0 or a translation, {count} numbers"
                raise DataError.of(url, f"the coordinate transformation {dict(step)}", expected)
            if kind == "scale":
                scale, origin = scale * values, origin * values
            else:
                origin = origin + values
    return scale.tolist(), origin.tolist()

"""One volume of the cache: writing and reading its folder.

A folder holds ``image.npy``, ``manifest.json`` and, if there is a label, ``label.npy`` and ``foreground.npy``. It is
written under a name with ``.partial`` and renamed when complete.
"""

import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..ops.contiguous import contiguous
from ..system.identity import sha256
from .labels import as_labels
from .plausibility import Values
from .volumes import TIFF_SUFFIXES, Volume, align_label, read_volume, spacing, suffix, to_canonical

FORMAT = 2
"""Version of the folder's format; folders of another version are rebuilt."""

MODALITIES = ("scroll", "ct")

_SOURCES = ("image", "label")

_SAMPLES = 10_000
"""Voxel coordinates stored per class, from which patch centres are drawn."""


@dataclass(eq=False, kw_only=True)
class CachedVolume:
    """A volume of the cache: memory-mapped arrays and the metadata of its manifest.

    Every access of :attr:`image` and :attr:`label` maps the file anew (about 30 us), so that a process's resident
    memory does not grow with the number of volumes it has used, and instances are cheap to pickle.
    """

    id: str
    group: str
    folder: str

    def __getstate__(self) -> dict[str, str]:
        return {"folder": self.folder, "id": self.id, "group": self.group}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        manifest = read_manifest(self.folder)
        manifest["label_histogram"] = np.asarray(manifest["label_histogram"], np.int64)  # saves nine tenths of memory
        return manifest

    @property
    def image(self) -> np.memmap:
        """(D, H, W), read-only. Scroll: uint8 or uint16 as in the file; CT: int16 HU, or a wider type if necessary.

        Raises:
            DataError: the cache file is missing or its size has changed.
        """
        return self._mapped("image")

    @property
    def label(self) -> np.memmap | None:
        """(D, H, W) uint8, read-only; None for a volume without a label."""
        return self._mapped("label") if self.has_label else None

    @property
    def has_label(self) -> bool:
        return "label" in self.manifest["arrays"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.manifest["arrays"]["image"]["shape"])

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64 from an index of the stored arrays to RAS millimetres; the identity for TIFF stacks."""
        return np.asarray(self.manifest["affine"], np.float64)

    @property
    def spacing(self) -> np.ndarray:
        """(3,) millimetres between neighbouring voxels along each axis of the stored arrays."""
        return spacing(self.affine)

    @property
    def label_histogram(self) -> np.ndarray:
        """(D, classes) int64: voxels of each label value in each slice; (D, 0) without a label."""
        return self.manifest["label_histogram"]

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        """For each label value above 0 that occurs, (N, 3) int32 indices of voxels drawn uniformly.

        Memory-mapped like the other arrays. N is at most 10 000.
        """
        samples = self.manifest.get("foreground", {})
        if not samples:
            return {}
        ends = np.cumsum(list(samples.values()))
        return dict(zip(map(int, samples), np.split(self._mapped("foreground"), ends[:-1]), strict=True))

    @property
    def values(self) -> Values:
        """Statistics of the image's values, from the manifest."""
        return Values(**self.manifest["values"])

    @property
    def image_path(self) -> str:
        return self.manifest["sources"]["image"]["path"]

    @property
    def label_path(self) -> str | None:
        return self.manifest["sources"].get("label", {}).get("path")

    @property
    def content(self) -> dict[str, str]:
        """Hashes of image (voxels and affine) and label, independent of file location and compression."""
        hashes = {kind: entry["sha256"] for kind, entry in self.manifest["arrays"].items() if kind in _SOURCES}
        placed_image = hashlib.sha256(json.dumps([hashes["image"], self.manifest["affine"]]).encode()).hexdigest()
        return {**hashes, "image": placed_image}

    @property
    def original_affine(self) -> np.ndarray:
        """(4, 4) affine of the source image, in its own axis order."""
        return np.asarray(self.manifest["original"]["affine"], np.float64)

    @property
    def original_shape(self) -> tuple[int, ...]:
        """Shape of the source image in its own axis order."""
        return tuple(self.manifest["original"]["shape"])

    def files(self) -> dict[str, dict[str, Any]]:
        """Return the array files by path, each with ``bytes`` and ``sha256`` from the manifest."""
        return {os.path.join(self.folder, entry["file"]): entry for entry in self.manifest["arrays"].values()}

    @property
    def bytes(self) -> int:
        """Size of the arrays on disk."""
        return sum(entry["bytes"] for entry in self.manifest["arrays"].values())

    def _mapped(self, name: str) -> np.memmap:
        entry = self.manifest["arrays"][name]
        path = os.path.join(self.folder, entry["file"])
        size = _size(path)
        if size != entry["bytes"]:  # reading beyond the end of a mapped file kills the process (SIGBUS)
            raise DataError.of(path, f"{size} bytes", f"{entry['bytes']} bytes; start again to rebuild it")
        return np.memmap(path, entry["dtype"], "r", entry["offset"], tuple(entry["shape"]))


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the manifest of a cached volume; raises a :class:`DataError` if it is missing or not valid JSON."""
    path = Path(folder, "manifest.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError.of(path, f"no readable manifest ({error})", "a cached volume") from None


def why_outdated(folder: str | os.PathLike, sources: dict[str, dict[str, Any]]) -> str | None:
    """Return why a cached volume of these sources cannot be used (one phrase), or None if it can."""
    try:
        manifest = read_manifest(folder)
        if manifest["format"] != FORMAT:
            return f"has format version {manifest['format']}, this program writes {FORMAT}"
        if manifest["sources"] != sources:
            return "was made from another version of its source"
        for path, entry in CachedVolume(folder=str(folder), id="", group="").files().items():
            if _size(path) != entry["bytes"]:
                return f"{path}: {_size(path)} bytes instead of {entry['bytes']}"
    except (DataError, KeyError, TypeError) as error:
        return f"has a damaged manifest ({error})"
    return None


def build_volume(
    folder: Path,
    sources: dict[str, dict[str, Any]],
    paths: dict[str, str],
    *,
    modality: str,
    label_values: Sequence[int],
) -> list[str]:
    """Read one case and create its folder atomically, in place of an existing one.

    Args:
        folder: its final name.
        sources: identities of ``image`` and, if there is one, ``label``, with the ``path`` that the user gave.
        paths: local files of these: the same, or copies of remote ones.
        modality: "scroll" keeps uint8 and uint16; "ct" is int16 HU if that is exact. Both otherwise use the narrowest
            floating-point type that is lossless.
        label_values: the allowed label values.

    Returns:
        warnings for the user; they are also kept in the manifest.

    Raises:
        DataError: the case cannot be used, or the disk is full.
    """
    notes: list[str] = []
    volume, target = _read(sources["image"], paths["image"]), None
    original = {"shape": list(volume.array.shape), "affine": volume.affine.tolist()}
    if "label" in sources:
        name = sources["label"]["path"]
        aligned = align_label(volume, _read(sources["label"], paths["label"]), name, warn=notes.append)
        target = as_labels(aligned, label_values, name)
    if suffix(paths["image"]) not in TIFF_SUFFIXES:
        target = None if target is None else to_canonical(Volume(target, volume.affine)).array
        volume = to_canonical(volume)
    stored = as_stored(volume.array, modality)
    if stored.dtype.kind == "f":
        name, kind = sources["image"]["path"], volume.array.dtype
        notes.append(f"{name}: stored as {stored.dtype}, the narrowest type that keeps {kind} exact")
    partial = folder.with_name(f"{folder.name}.partial-{socket.gethostname()}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        arrays = {"image": _write_array(partial / "image.npy", stored)}
        histogram, foreground = np.empty((len(volume.array), 0)), {}
        if target is not None:
            arrays["label"] = _write_array(partial / "label.npy", target)
            histogram = label_histogram(target, max(label_values) + 1)
            foreground = sample_foreground(target, histogram)
        if foreground:
            arrays["foreground"] = _write_array(partial / "foreground.npy", np.concatenate(list(foreground.values())))
        manifest = {
            "format": FORMAT,
            "sources": sources,
            "original": original,
            "affine": volume.affine.tolist(),
            "values": Values.of(volume.array)._asdict(),
            "arrays": arrays,
            "foreground": {str(value): len(indices) for value, indices in foreground.items()},
            "notes": notes,
            "label_histogram": histogram.tolist(),
        }
        _write_whole(partial / "manifest.json", json.dumps(manifest).encode())
        if folder.exists() and why_outdated(folder, sources) is not None:
            shutil.rmtree(folder)
        if folder.exists():  # built by another process, on a file system without locks
            shutil.rmtree(partial)
        else:
            os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return notes


def as_stored(array: np.ndarray, modality: str) -> np.ndarray:
    """Convert to the narrowest type of the modality that represents every value exactly, C-contiguous."""
    kinds = {"scroll": (np.uint8, np.uint16, np.float32), "ct": (np.int16, np.float32)}[modality]
    if modality == "scroll" and array.dtype in kinds[:2]:
        return contiguous(array)
    for kind in kinds:
        limits = np.iinfo(kind) if np.issubdtype(kind, np.integer) else np.finfo(kind)
        if limits.min <= array.min() and array.max() <= limits.max:
            converted = array.astype(kind, order="C")
            if np.array_equal(converted, array):
                return converted
    return array.astype(np.float64, order="C")


def label_histogram(label: np.ndarray, classes: int) -> np.ndarray:
    """Return the counts (D, classes) of each class in each slice of a label (D, H, W)."""
    return np.stack([np.bincount(plane.ravel(), minlength=classes) for plane in label])


def sample_foreground(label: np.ndarray, histogram: np.ndarray, samples: int = _SAMPLES) -> dict[int, np.ndarray]:
    """Draw at most ``samples`` voxels of each class uniformly, slice by slice to save memory.

    Args:
        label: (D, H, W) class indices.
        histogram: (D, classes) from :func:`label_histogram`.
        samples: a class with fewer voxels is returned completely.

    Returns:
        (N, 3) int32 indices by class, for classes above 0 that occur, in array order.
    """
    drawn = {}
    for value in range(1, histogram.shape[1]):
        per_slice = histogram[:, value]
        total = int(per_slice.sum())
        if total == 0:
            continue
        generator = np.random.default_rng(value)  # the same voxels whenever the cache is built
        ranks = np.sort(generator.choice(total, min(samples, total), replace=False))
        ends = np.cumsum(per_slice)
        owner = np.searchsorted(ends, ranks, side="right")
        indices = np.empty((len(ranks), 3), np.int32)
        for z in np.unique(owner):
            mine = owner == z
            flat = np.flatnonzero(label[z].ravel() == value)[ranks[mine] - (ends[z] - per_slice[z])]
            indices[mine, 0] = z
            indices[mine, 1], indices[mine, 2] = np.divmod(flat, label.shape[2])
        drawn[value] = indices
    return drawn


def _read(source: dict[str, Any], path: str) -> Volume:
    try:
        return read_volume(path)
    except DataError as error:  # name the URL, not the copy
        raise DataError(str(error).replace(path, source["path"])) from None


def _write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write a .npy file without a memory map, which would crash on a full disk."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    offset = header.tell()
    _write_whole(path, header.getvalue(), memoryview(array).cast("B"))
    return {
        "file": path.name,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "offset": offset,
        "bytes": offset + array.nbytes,
        "sha256": sha256(path),
    }


def _write_whole(path: Path, *parts: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _size(path: str | os.PathLike) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

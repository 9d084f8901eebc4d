"""Reads one volume of any supported format, reorients it, and rejects unusable files.

Convention: the axes of ``Volume.array`` are in the order of the affine's columns, and the affine maps an array index to
RAS millimetres (x to the patient's Right, y Anterior, z Superior), as in NIfTI. TIFF stacks have no geometry: their
axes are (page, row, column) and their affine is the identity.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import ensure_tuple
from nibabel import orientations

from ..errors import DataError
from ..ops.contiguous import contiguous
from .dicom import DICOM_SUFFIXES, is_dicom, read_dicom
from .metaimage import read_metaimage
from .nifti import open_nifti, read_nifti
from .nifti_geometry import largest_shift
from .nrrd import read_nrrd
from .tiff import read_tiff, read_tiff_shape
from .writing import NIFTI_SUFFIXES, TIFF_SUFFIXES

_READERS = {
    **dict.fromkeys(NIFTI_SUFFIXES, read_nifti),
    **dict.fromkeys(TIFF_SUFFIXES, lambda path: (read_tiff(path), np.eye(4))),
    **{".nrrd": read_nrrd, ".mha": read_metaimage, ".mhd": read_metaimage},
    **dict.fromkeys(DICOM_SUFFIXES, read_dicom),
}
SUFFIXES = tuple(_READERS)

CANONICAL = "SPL"
"""Axis 0 from inferior to superior (slices), axis 1 to posterior, axis 2 to the patient's left.

Slices are then contiguous in memory and displayed in radiological orientation (the patient's right
on the viewer's left).
"""

_SAME_GRID = 0.1
"""Affines are considered equal if they move no corner of the volume by this many voxels."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D array and the (4, 4) affine from its index to RAS millimetres."""

    array: np.ndarray
    affine: np.ndarray


def read_volume(path: str | os.PathLike) -> Volume:
    """Read a volume: .nii, .nii.gz, .nrrd, .mha, .mhd, .tif, .tiff, one DICOM file or a folder of one DICOM series.

    Returns:
        the volume (I, J, K) in the file's own axis order, data type and value scale (the header's slope and intercept
        applied). A single plane becomes one slice: its last axis, or first for TIFF, has length 1.

    Raises:
        DataError: the file is missing, empty, truncated or damaged; it holds NaN or infinite values, several frames or
            colours; its affine is not finite or not invertible; a DICOM folder holds several series or lacks a slice.
    """
    path = Path(path)
    if not path.exists():
        raise DataError.of(path, "no such file", "a volume")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError.of(path, "an empty file", "a volume")
    read = _READERS.get(suffix(path))
    if path.is_dir() or (read is None and is_dicom(path)):
        read = read_dicom
    if read is None:
        raise DataError.of(path, f"file name ending in {path.suffix or 'nothing'!r}", f"one of {', '.join(SUFFIXES)}")
    return _checked(*read(path), path)


def suffix(path: str | os.PathLike) -> str:
    """Return the supported suffix of a file name in lower case (also ``.nii.gz``), or an empty string."""
    name = os.path.basename(os.fspath(path)).lower()
    return next((end for end in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(end)), "")


def stem(path: str | os.PathLike) -> str:
    """Return the file name without its supported suffix."""
    name = os.path.basename(os.fspath(path).rstrip("/"))
    end = suffix(name)
    return name[: -len(end)] if end else name


def read_shape(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype] | None:
    """Return shape and stored type of a NIfTI or TIFF file from its header; None for other formats."""
    path = Path(path)
    if suffix(path) in TIFF_SUFFIXES:
        return read_tiff_shape(path)
    if suffix(path) in NIFTI_SUFFIXES:
        image = open_nifti(path)
        return tuple(image.shape), image.get_data_dtype()
    return None


def to_canonical(volume: Volume, orientation: str = CANONICAL) -> Volume:
    """Permute and flip the axes (no interpolation) to an orientation; the affine changes accordingly."""
    change = orientations.ornt_transform(
        orientations.io_orientation(volume.affine), orientations.axcodes2ornt(tuple(orientation))
    )
    return _reoriented(volume, change)


def align_label(image: Volume, label: Volume, path: object, warn: Callable[[str], None] = logger.warning) -> np.ndarray:
    """Return the label's array in the axis order of the image.

    A label on the same voxel grid with other axes is reoriented. If the affines disagree on the position but the shapes
    are equal, array order is kept, with a warning: such label headers occur in LiTS.

    Raises:
        DataError: the shapes differ.
    """
    to_image = np.linalg.inv(image.affine)
    shift = largest_shift(to_image @ label.affine, label.array.shape)
    if shift >= _SAME_GRID:
        turned = _reoriented(label, orientations.io_orientation(to_image @ label.affine))
        if largest_shift(to_image @ turned.affine, turned.array.shape) < _SAME_GRID:
            label = turned
        elif label.array.shape == image.array.shape:
            warn(f"{path}: its affine differs from the image's by up to {shift:.1f} voxels; array order is kept")
    if image.array.shape != label.array.shape:
        raise DataError.of(path, f"shape {label.array.shape}", f"the image's shape {image.array.shape}")
    return label.array


def spacing(affine: np.ndarray) -> np.ndarray:
    """Return the voxel spacing in mm along each of the three axes."""
    return np.linalg.norm(affine[:3, :3], axis=0)


class VolumeReader(ImageReader):
    """MONAI image reader that uses :func:`read_volume`.

    Arrays are in the file's own axis order and have no channel axis; one file (or DICOM folder) per image.

    Example: ``{"_target_": "LoadImaged", "keys": "image", "reader": {"_target_": "custom.data.VolumeReader"}}``

    Raises:
        DataError: as :func:`read_volume`.
    """

    def verify_suffix(self, filename: Sequence[str] | str) -> bool:
        names = ensure_tuple(filename)
        return len(names) == 1 and (Path(names[0]).is_dir() or bool(suffix(names[0])))

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> Path:
        """Return the path only.

        MONAI's loader tries other readers when this method fails, and one of them might accept what :func:`read_volume`
        rejects; errors of :meth:`get_data` reach the user.
        """
        names = ensure_tuple(data)
        if len(names) != 1:
            raise ValueError(f"one file per image, got {names}")
        return Path(names[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        volume = read_volume(img)
        meta = {
            "affine": volume.affine.copy(),
            "original_affine": volume.affine.copy(),
            "spatial_shape": np.asarray(volume.array.shape),
            "original_channel_dim": "no_channel",
            "space": "RAS",
            "filename_or_obj": str(img),
        }
        return volume.array, meta


def _checked(array: np.ndarray, affine: np.ndarray, path: Path) -> Volume:
    if array.dtype.kind not in "uifb":
        raise DataError.of(path, f"voxels of type {array.dtype}", "one real number per voxel")
    if any(length == 0 for length in array.shape):
        raise DataError.of(path, f"shape {array.shape}", "at least one voxel")
    while array.ndim > 3:
        if array.shape[-1] != 1:
            raise DataError.of(path, f"shape {array.shape}: {array.shape[-1]} frames", "a single 3-D volume")
        array = array[..., 0]
    while array.ndim < 3:
        array = array[..., None]
    _check_affine(affine, path)
    bad = array.size - int(np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0
    if bad:
        raise DataError.of(path, f"{bad} NaN or infinite voxels", "finite values only")
    return Volume(array.astype(array.dtype.newbyteorder("="), copy=False), affine)


def _check_affine(affine: np.ndarray, path: Path) -> None:
    if not np.isfinite(affine).all():
        raise DataError.of(path, "an affine with NaN or infinite entries", "a finite affine")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if (lengths == 0).any() or volume < 1e-3 * lengths.prod():  # relative, since voxels may be micrometres in size
        raise DataError.of(path, f"a singular affine {affine[:3, :3].tolist()}", "an invertible affine")


def _reoriented(volume: Volume, change: np.ndarray) -> Volume:
    array = contiguous(orientations.apply_orientation(volume.array, change))
    return Volume(array, volume.affine @ orientations.inv_ornt_aff(change, volume.array.shape))

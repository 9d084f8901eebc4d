"""Atomic writing of one volume to a file."""

import os
from pathlib import Path

import numpy as np

from ..system.files import write_whole

TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")

_CLASSIC_TIFF = 2**32 * 2 // 3
"""Bytes of pixels up to which a file stays below 4 GiB, the limit of classic TIFF, though LZW may add half."""


def write_volume(
    path: str | Path, array: np.ndarray, affine: np.ndarray | None = None, like: str | Path | None = None
) -> Path:
    """Write a volume in the format given by the file name.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.tif`` (a page stack, LZW; BigTIFF if it may exceed 4 GiB) or another format of
            ITK (``.mha``, ``.nrrd``).
        array: ``(D, H, W)``; for TIFF page, row, column.
        affine: ``(4, 4)``, array index to RAS millimetres. Not stored in TIFF.
        like: the volume whose affine this is. If both are NIfTI, the header's geometry is copied exactly.

    Raises:
        ValueError: the array is not three-dimensional.
    """
    if array.ndim != 3:
        raise ValueError(f"{path}: a volume has 3 dimensions, this array has the shape {array.shape}")
    name = Path(path).name.lower()
    if name.endswith(TIFF_SUFFIXES):
        return write_whole(path, lambda file: _write_tiff(file, array))
    affine = np.eye(4) if affine is None else affine
    if not name.endswith(NIFTI_SUFFIXES):
        return write_whole(path, lambda file: _write_with_itk(file, array, affine))
    is_nifti = like is not None and Path(like).is_file() and os.fspath(like).lower().endswith(NIFTI_SUFFIXES)
    return write_whole(path, lambda file: _write_nifti(file, array, affine, like if is_nifti else None))


def _write_tiff(file: Path, array: np.ndarray) -> None:
    import tifffile

    array = array.view(np.uint8) if array.dtype == bool else array  # tifffile would store 1 bit per pixel
    tifffile.imwrite(
        file,
        array,
        byteorder="<",  # Pillow misreads floating-point pixels in the other order
        photometric="minisblack",
        compression="lzw",
        bigtiff=array.nbytes > _CLASSIC_TIFF,
        metadata=None,  # no description, in which readers would look for axes
    )


def _write_nifti(file: Path, array: np.ndarray, affine: np.ndarray, like: str | Path | None) -> None:
    import nibabel

    from .nifti_geometry import header_for

    header = header_for(affine, array.shape, like)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    # Without the affine, which nibabel would write into the sform.
    nibabel.save(kind(array, None, header, dtype=array.dtype), file)


def _write_with_itk(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import itk
    from monai.data import ITKWriter

    image = ITKWriter.create_backend_obj(array, channel_dim=None, affine=affine, dtype=array.dtype)
    itk.imwrite(image, str(file), compression=True)

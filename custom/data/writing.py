"""Writing one volume to a file, whole or not at all."""

from pathlib import Path

import numpy as np

from ..files import write_whole

TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")

_CLASSIC_TIFF = 2**32 * 2 // 3
"""Bytes of pixels up to which a file surely stays below 4 GiB, the end of classic TIFF: LZW may add half of them."""


def write_volume(path: str | Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a volume in the format its file name asks for.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.tif`` (a stack of pages, LZW; BigTIFF where it may exceed 4 GiB) or anything
            else ITK writes (``.mha``, ``.nrrd``).
        array: ``(D, H, W)``; a TIFF takes them as page, row, column.
        affine: ``(4, 4)``, array index to RAS millimetres. A TIFF has no place for it.

    Raises:
        ValueError: if the array is not three-dimensional.
    """
    if array.ndim != 3:
        raise ValueError(f"{path}: a volume has 3 dimensions, this array has the shape {array.shape}")
    name = Path(path).name.lower()
    if name.endswith(TIFF_SUFFIXES):
        return write_whole(path, lambda file: _write_tiff(file, array))
    write = _write_nifti if name.endswith(NIFTI_SUFFIXES) else _write_with_itk
    return write_whole(path, lambda file: write(file, array, np.eye(4) if affine is None else affine))


def _write_tiff(file: Path, array: np.ndarray) -> None:
    import tifffile

    array = array.view(np.uint8) if array.dtype == bool else array  # tifffile would store 1 bit a pixel
    tifffile.imwrite(
        file,
        array,
        byteorder="<",  # Pillow misreads floating-point pixels in the other order
        photometric="minisblack",
        compression="lzw" if _has_imagecodecs() else "zlib",
        bigtiff=array.nbytes > _CLASSIC_TIFF,
        metadata=None,  # no description: readers would look for axes in it
    )


def _has_imagecodecs() -> bool:
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return True


def _write_nifti(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, file)


def _write_with_itk(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import itk
    from monai.data import ITKWriter

    image = ITKWriter.create_backend_obj(array, channel_dim=None, affine=affine, dtype=array.dtype)
    itk.imwrite(image, str(file), compression=True)

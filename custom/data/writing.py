"""Writing one volume to a file, whole or not at all."""

from pathlib import Path

import numpy as np

from ..files import write_whole

TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")


def write_volume(path: str | Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a volume in the format its file name asks for.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.tif`` (a stack of pages, LZW) or anything else ITK writes (``.mha``, ``.nrrd``).
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
    import itk

    tiff = itk.TIFFImageIO.New()
    tiff.SetCompressor("LZW")  # ITK's default, PackBits, hardly shrinks a scan
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(array)), str(file), compression=True, imageio=tiff)


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

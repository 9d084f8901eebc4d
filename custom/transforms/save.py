"""Writing predictions under the names of their inputs."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..configuration import without_effect
from ..data.volumes import DICOM_SUFFIXES, stem, suffix
from ..data.writing import write_volume


@without_effect("output_dir")
class SaveVolumed(MapTransform):
    """Write ``(C, D, H, W)`` or ``(D, H, W)`` predictions to ``output_dir``, one file per channel, never half a file.

    Unlike MONAI's ``SaveImaged`` it writes stacks of pages as TIFF, and renames a finished file into place.

    Args:
        keys: what to write.
        image_key: the input whose name is kept: the data's ``id``, which tells apart equal file names of two folders,
            or the file name where there is no ``id``. For NIfTI and other formats with a geometry the prediction's own
            affine is written (``Invertd`` gives it back the input's), or that of the image if it has none. From NIfTI
            to NIfTI, qform, sform, their codes, pixdim and units stay the input's.
        output_dir: folder to write to; created.
        output_ext: for example ``".nii.gz"``; ``None`` keeps the input's, except where
            that is not written: ``.nii.gz`` for DICOM, ``.mha`` for ``.mhd``.
        dtype: what to write, numpy's name.
        channel_names: what tells the files of several channels apart: ``<input's name>_<channel's name>``. By default
            there is one channel, and its file is called as the input.

    Raises:
        ValueError: the prediction has another number of channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        output_dir: str,
        image_key: str = "image",
        output_ext: str | None = None,
        dtype: str = "uint8",
        channel_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.image_key = image_key
        self.output_ext = output_ext
        self.dtype = np.dtype(dtype)
        self.channel_names = channel_names

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write and hand on unchanged."""
        image = data[self.image_key]
        source = image.meta["filename_or_obj"]
        paths = self.paths(source, data.get("id"))
        for key in self.key_iterator(data):
            array = torch.as_tensor(data[key]).detach().cpu().numpy()
            affine = data[key].affine if isinstance(data[key], MetaTensor) else image.affine
            channels = array if array.ndim == 4 else array[None]
            if len(channels) != len(paths):
                raise ValueError(f"{key}: found {len(channels)} channels, expected {len(paths)}")
            for path, volume in zip(paths, channels, strict=True):
                write_volume(path, volume.astype(self.dtype), np.asarray(affine, float), like=source)
        return dict(data)

    def paths(self, source: str, name: str | None = None) -> list[Path]:
        """The files that are written for an input, one a channel; called by its name, or else by its file's."""
        name = stem(source) if name is None else name.replace("/", "_")
        ext = self.output_ext or _written_suffix(suffix(source))
        names = [name] if self.channel_names is None else [f"{name}_{channel}" for channel in self.channel_names]
        return [self.output_dir / f"{name}{ext}" for name in names]


def _written_suffix(found: str) -> str:
    """DICOM (a folder or a file) is read but not written; .mhd would be two files, which cannot be renamed as one."""
    return ".nii.gz" if found in ("", *DICOM_SUFFIXES) else ".mha" if found == ".mhd" else found

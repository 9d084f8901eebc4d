"""Saving of predictions under the names of their inputs."""

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
    """Writes predictions ``(C, D, H, W)`` or ``(D, H, W)`` atomically to ``output_dir``, one file per channel.

    Unlike MONAI's ``SaveImaged`` it writes TIFF page stacks, and renames files when they are complete.

    Example: ``{"_target_": "custom.transforms.SaveVolumed", "keys": "pred", "output_dir": "predictions"}``

    Args:
        keys: predictions, named by the item's ``id`` or else by the file name of its ``image``. The affine is the
            prediction's own (``Invertd`` restores the image's), or that of the image if it has none. From NIfTI to
            NIfTI, qform, sform, their codes, pixdim and units are copied from the image.
        output_dir: folder to write to; created if missing.
        output_ext: for example ``".nii.gz"``; None keeps the input's, with ``.nii.gz`` for DICOM and ``.mha`` for
            ``.mhd``.
        dtype: NumPy data type of the files.
        channel_names: suffixes for several channels: ``<input's name>_<channel's name>``. By default one channel is
            expected, whose file is named like the input.

    Raises:
        ValueError: a prediction has another number of channels.
    """

    reads_image = False

    def __init__(
        self,
        keys: KeysCollection,
        *,
        output_dir: str,
        output_ext: str | None = None,
        dtype: str = "uint8",
        channel_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.output_ext = output_ext
        self.dtype = np.dtype(dtype)
        self.channel_names = channel_names

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"]
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
        """Return the files written for an input, one per channel, named by ``name`` or else by the source file."""
        name = stem(source) if name is None else name.replace("/", "_")
        ext = self.output_ext or _written_suffix(suffix(source))
        names = [name] if self.channel_names is None else [f"{name}_{channel}" for channel in self.channel_names]
        return [self.output_dir / f"{name}{ext}" for name in names]


def _written_suffix(found: str) -> str:
    """DICOM is not written; .mhd would be two files, which cannot be renamed together."""
    return ".nii.gz" if found in ("", *DICOM_SUFFIXES) else ".mha" if found == ".mhd" else found

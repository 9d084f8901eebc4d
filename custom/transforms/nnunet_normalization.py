"""Intensity normalisation as in nnU-Net's plans."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ScaleIntensityRanged
from scipy.ndimage import binary_fill_holes

from ..errors import DataError
from ..ops.boxes import NONZERO, bounding_box

SCHEMES = (
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
WHOLE = ("ZScoreNormalization", "RescaleTo01Normalization")
"""Schemes that need statistics of the volume."""
_SMALLEST = 1e-8


class NormalizeNnunetd(MapTransform):
    """Normalises a volume by one of nnU-Net's schemes, and notes where it is not zero.

    nnU-Net crops a volume to the box of its voxels that are not 0 before anything else; statistics are those of the
    box. The image is not cropped here, but its metadata get the box, for :class:`custom.inferers.NnunetInferer`.

    Example: ``{"_target_": "custom.transforms.NormalizeNnunetd", "keys": "image", "scheme": "CTNormalization",
    "properties": {"mean": 100, "std": 50, "percentile_00_5": -10, "percentile_99_5": 250}}``

    Args:
        keys: images ``(1, D, H, W)``: volumes with metadata, or patches without. float32 is returned.
        scheme: ``CTNormalization`` (clip to the percentiles of ``properties``, subtract the mean, divide by the
            standard deviation), ``ZScoreNormalization``, ``NoNormalization``, ``RescaleTo01Normalization`` (minimum and
            maximum) or ``RGBTo01Normalization`` (divide by 255).
        properties: intensity properties of the channel in the plans, for ``CTNormalization``.
        use_mask: for ``ZScoreNormalization``: statistics of the voxels that are not 0, and of the holes in them; the
            others are left as they are.

    Raises:
        DataError: an unknown scheme, a missing property, a patch with a scheme that needs the whole volume, or a value
            that is no colour.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        scheme: str,
        properties: Mapping[str, float] | None = None,
        use_mask: bool = False,
    ) -> None:
        super().__init__(keys)
        if scheme not in SCHEMES:
            raise DataError.of("normalization", repr(scheme), f"one of {', '.join(SCHEMES)}")
        needed = {"mean", "std", "percentile_00_5", "percentile_99_5"} if scheme == "CTNormalization" else set()
        if missing := needed - set(properties or {}):
            raise DataError.of(scheme, f"properties without {', '.join(sorted(missing))}", "the plans' properties")
        self.scheme = scheme
        self.properties = {name: float((properties or {})[name]) for name in needed}
        self.use_mask = use_mask and scheme == "ZScoreNormalization"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(data):
            if not isinstance(output[key], MetaTensor):  # a patch, on any device
                if self.scheme in WHOLE:
                    raise DataError.of(
                        self.scheme, "a patch", "a whole volume: train with a scheme of fixed intensities"
                    )
                output[key] = self.intensity()({key: output[key]})[key]
                continue
            image = output[key]
            values = np.array(image, np.float32)
            inside = bounding_box(values[0] != 0) or tuple(slice(0, length) for length in values.shape[1:])
            changed = inside if self.scheme in WHOLE else ...
            values[0][changed] = self._normalized(values[0][changed])
            output[key] = MetaTensor(torch.from_numpy(values)).copy_meta_from(image)
            output[key].meta[NONZERO] = torch.tensor([(span.start, span.stop) for span in inside])
        return output

    def intensity(self) -> ScaleIntensityRanged:
        """Return the equivalent for patches.

        Raises:
            DataError: the scheme needs the whole volume.
        """
        if self.scheme in WHOLE:
            found = f"{self.scheme}, which needs statistics of the whole volume"
            raise DataError.of("preprocessing", found, "a normalization of fixed intensities, such as CTNormalization")
        if self.scheme == "CTNormalization":
            low, high, mean, std = self._constants()
            ends = {
                "a_min": low,
                "a_max": high,
                "b_min": (low - mean) / std,
                "b_max": (high - mean) / std,
                "clip": True,
            }
        else:
            ends = {"a_min": 0, "a_max": 255, "b_min": 0, "b_max": 255 if self.scheme == "NoNormalization" else 1}
        return ScaleIntensityRanged(self.keys, **ends, allow_missing_keys=True)

    def _constants(self) -> tuple[float, float, float, float]:
        names = ("percentile_00_5", "percentile_99_5", "mean", "std")
        low, high, mean, std = (self.properties[name] for name in names)
        return low, high, mean, max(std, _SMALLEST)

    def _normalized(self, values: np.ndarray) -> np.ndarray:
        if self.scheme == "CTNormalization":
            low, high, mean, std = self._constants()
            values = np.clip(values, low, high)
            values -= mean
            values /= std
        elif self.scheme == "ZScoreNormalization":
            mask = binary_fill_holes(values != 0) if self.use_mask else ...
            chosen = values[mask]
            values[mask] = (chosen - chosen.mean()) / max(chosen.std(), _SMALLEST)
        elif self.scheme == "RescaleTo01Normalization":
            values = values - values.min()
            values /= max(values.max(), _SMALLEST)
        elif self.scheme == "RGBTo01Normalization":
            if values.min() < 0 or values.max() > 255:
                raise DataError.of(self.scheme, f"values from {values.min():g} to {values.max():g}", "0 to 255")
            values = values / 255
        return values

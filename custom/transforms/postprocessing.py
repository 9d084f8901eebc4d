"""Post-processing of the surface probability to a mask of clean sheets."""

import math
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy, convert_to_tensor

from ..errors import DataError
from ..ops.components import SIX, fill_cavities, hysteresis, remove_small
from ..ops.diffusion import diffuse_along_sheets
from ..ops.morphology import plug_pinholes
from ..ops.sheets import close_sheets, patch_holes
from ..ops.tunnels import fill_tunnels
from ..ops.unmerge import split_merged

_TENTHS = [tenth / 10 for tenth in range(1, 10)]


class PostprocessSurfaced(MapTransform):
    """Thresholds the surface probability and repairs the sheets; 0 disables a step.

    The competition's score penalises every pinhole, speck and bridge. Units are voxels. Steps are applied in the order
    of the arguments, the thresholds where the probability is, everything else on the CPU.

    Example: ``PostprocessSurfaced("pred", threshold_low=0.3, threshold_high=0.6, min_component_voxels=500)``

    Args:
        keys: probabilities (C, D, H, W), tensors or arrays, floating-point in [0, 1] or uint8 in steps of 1/255, the
            surface's last. They become (1, D, H, W) uint8 masks of the same type.
        diffusion_steps: how often probabilities are diffused along the sheets, not across them, before the thresholds;
            ``n`` steps smooth like a Gaussian of ``sqrt(n / 2)`` voxels.
        threshold_low: minimum probability of a mask voxel.
        threshold_high: a 26-connected component of these voxels is kept only if it reaches this probability somewhere
            (hysteresis); ``threshold_low`` or less for a plain threshold.
        split_threshold: components that are several sheets are thresholded again in steps of 0.1 up to this value, and
            kept apart where that separates them; ``threshold_low`` or less leaves them as they are.
        min_component_voxels: smaller 26-connected components are removed.
        closing_radius: radius of the ball of a closing that fills notches and small holes, without joining components.
            The filling is two voxels thinner than the sheet, so that holes in sheets two voxels thick stay open.
        pinhole_iterations: how often background voxels with at least four of six face neighbours in the mask are
            filled: holes one voxel wide, and dents left by the closing.
        tunnel_radius: radius of the largest holes through a sheet, folded or not, that are filled if this removes a
            tunnel and joins nothing.
        max_hole_area: area of the largest hole in a sheet that is filled by interpolating a height map, in pixels of
            the projection that shows most of the sheet. Holes of folded sheets are kept, and those whose filling would
            touch another sheet.
        max_cavity_voxels: largest enclosed cavity (6-connected background) that is filled; None for any size.

    Raises:
        DataError: a threshold is outside of [0, 1].
        ValueError: an input does not have four dimensions.
    """

    reads_image = False

    def __init__(
        self,
        keys: KeysCollection,
        *,
        diffusion_steps: int = 0,
        threshold_low: float = 0.5,
        threshold_high: float = 0.0,
        split_threshold: float = 0.0,
        min_component_voxels: int = 0,
        closing_radius: float = 0.0,
        pinhole_iterations: int = 0,
        tunnel_radius: int = 0,
        max_hole_area: int = 0,
        max_cavity_voxels: int | None = 0,
    ) -> None:
        super().__init__(keys)
        thresholds = {
            "threshold_low": threshold_low,
            "threshold_high": threshold_high,
            "split_threshold": split_threshold,
        }
        for name, value in thresholds.items():
            if not 0 <= value <= 1:
                raise DataError.of(name, str(value), "a probability from 0 to 1")
        self.diffusion_steps = diffusion_steps
        split = [value for value in (*_TENTHS, split_threshold) if threshold_low < value <= split_threshold]
        self.thresholds = sorted({threshold_low, max(threshold_low, threshold_high), *split})
        self.kept_level = 1 + self.thresholds.index(max(threshold_low, threshold_high))
        self.split_levels = sorted({1 + self.thresholds.index(value) for value in split})
        steps: list[tuple[bool, Callable[[np.ndarray], np.ndarray]]] = [
            (min_component_voxels > 0, partial(remove_small, min_voxels=min_component_voxels)),
            (closing_radius >= 1, partial(close_sheets, radius=closing_radius)),
            (pinhole_iterations > 0, partial(plug_pinholes, iterations=pinhole_iterations)),
            (tunnel_radius > 0, partial(fill_tunnels, radius=tunnel_radius)),
            (max_hole_area > 0, partial(patch_holes, max_area=max_hole_area)),
            (max_cavity_voxels != 0, partial(fill_cavities, max_voxels=max_cavity_voxels, connectivity=SIX)),
        ]
        self.steps = [step for enabled, step in steps if enabled]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return self.afterwards(self.on_device(data))

    def on_device(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace probabilities by int8 levels (1, D, H, W): the number of thresholds that they reach, all in one."""
        result = dict(data)
        for key in self.key_iterator(result):
            if result[key].ndim != 4:
                raise ValueError(f"expected (C, D, H, W), got {tuple(result[key].shape)}")
            values = convert_to_tensor(result[key]).detach()[-1:]
            if self.diffusion_steps:
                values = values / 255 if values.dtype == torch.uint8 else values.float()
                values = diffuse_along_sheets(values[0], self.diffusion_steps)[None]
            levels = (values >= self._scaled(self.thresholds[0], values)).to(torch.int8)
            for threshold in self.thresholds[1:]:
                levels += values >= self._scaled(threshold, values)
            result[key] = convert_to_dst_type(levels, result[key], dtype=levels.dtype)[0]
        return result

    def afterwards(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the levels by masks (1, D, H, W) uint8 on the CPU."""
        result = dict(data)
        for key in self.key_iterator(result):
            levels = convert_to_numpy(data[key])[0]
            mask = hysteresis(levels, 1, self.kept_level)
            if self.split_levels:
                mask = split_merged(mask, levels, self.split_levels)
            for step in self.steps:
                mask = step(mask)
            output = mask[None].astype(np.uint8)
            result[key] = convert_to_dst_type(output, data[key], dtype=np.uint8, device=torch.device("cpu"))[0]
        return result

    @staticmethod
    def _scaled(threshold: float, values: torch.Tensor) -> float:
        """The threshold in the units of the values; a whole number for uint8, since torch compares in float32."""
        return math.ceil(threshold * 255) if values.dtype == torch.uint8 else threshold

"""Random rotation, scaling, elastic deformation and slice shifts in a single resampling."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.utils import ensure_tuple_rep

from ..errors import DataError
from ..ops.host_to_device import to_device
from ..ops.warp import (
    control_lattice_shape,
    cut_surface,
    largest_elastic_magnitude,
    rotation_matrix,
    sample_linear,
    sample_nearest,
    surface_amount,
    warp_coordinates,
)
from .batch import RandBatchTransform, changed, chosen

Range = float | Sequence[float]

_MODES = ("bilinear", "nearest", "surface")


class RandWarpd(RandBatchTransform):
    """Deforms image and label together: all parts of the deformation are composed, and voxels are interpolated once.

    The source of output voxel ``o`` is ``c + R @ S @ (o - c + elastic(o) + jitter(o))`` about the centre ``c``, with
    rotation ``R``, scaling ``S``, a cubic B-spline through random control points and one in-plane shift per slice.
    Outside of the input, border values are repeated.

    Example: ``RandWarpd(keys=["image", "label"], mode=["bilinear", "surface"], rotate_range=0.26,
    elastic_magnitude=4)``

    Args:
        keys: channel-first tensors (C, D, H, W) or (C, H, W), all of one spatial shape.
        mode: one for each key. ``"bilinear"``: linear interpolation along all axes, gives float32. ``"nearest"``: keeps
            the dtype and creates no new values. ``"surface"``: for labels 0, 1 (a thin surface) and larger ones
            (ignored), keeps the dtype; unlike nearest-neighbour resampling it hardly punctures sheets two voxels thick
            (:func:`custom.ops.warp.surface_amount`).
        prob: probability that an item is warped.
        rotate_range: radians about each array axis, drawn from [-r, r]; in 2-D the first value is used.
        scale_range: the zoom along each axis is drawn from [1 - s, 1 + s]; values above 1 enlarge.
        elastic_spacing: voxels between control points along each axis.
        elastic_magnitude: range of the magnitude m of an item (one number: from 0 to it), in voxels; each control point
            moves by up to m along each axis.
        slice_shift: largest in-plane shift of each slice along the first axis, in voxels; 3-D only.
        slice_shift_prob: probability of these shifts in an item that is warped.
        label_padding: value outside of the input for nearest and surface keys, such as the ignored label; None repeats
            the border values.

    A number given for a range applies to every axis. The output has the input's spatial shape, array type and metadata.

    Raises:
        ValueError: the elastic magnitude could fold the image (the bound is that of Choi and Lee, 2000); a scale range
            of 1 or more; slice shifts in 2-D; an unknown mode; a surface key with a ``label_padding`` of 1.
    """

    def __init__(
        self,
        *,
        keys: KeysCollection,
        mode: Sequence[str] | str = ("bilinear", "nearest"),
        prob: float = 0.5,
        rotate_range: Range = 0.0,
        scale_range: Range = 0.0,
        elastic_spacing: Range = 32.0,
        elastic_magnitude: Range = 0.0,
        slice_shift: float = 0.0,
        slice_shift_prob: float = 1.0,
        label_padding: int | None = None,
    ) -> None:
        super().__init__(keys, prob)
        low, high = (0.0, elastic_magnitude) if np.isscalar(elastic_magnitude) else elastic_magnitude
        bound = largest_elastic_magnitude(float(np.min(elastic_spacing)))
        if not 0 <= low <= high <= bound:
            raise DataError(
                f"elastic_magnitude {elastic_magnitude}: expected 0 to {bound:.1f} voxels for control points"
                f" {elastic_spacing} voxels apart; beyond it the deformation can fold"
            )
        if np.max(scale_range) >= 1:
            raise DataError(f"scale_range {scale_range}: expected less than 1")
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if not set(self.mode) <= set(_MODES):
            raise ValueError(f"mode {self.mode}: expected one of {', '.join(_MODES)} for each key")
        if "surface" in self.mode and label_padding == 1:
            raise ValueError("label_padding 1: expected another value for a surface key, such as the ignore label")
        self.rotate_range, self.scale_range = rotate_range, scale_range
        self.elastic_spacing, self.elastic_magnitude = elastic_spacing, (float(low), float(high))
        self.slice_shift, self.slice_shift_prob = slice_shift, slice_shift_prob
        self.label_padding = label_padding
        self.parameters: dict[str, torch.Tensor] = {}

    def randomize(self, size: Sequence[int]) -> dict[str, torch.Tensor]:
        """Draw and return ``parameters`` for one item of spatial shape ``size``; of the identity if it is not warped.

        They are float32 tensors: ``matrix`` (d, d), ``control`` (d, *lattice) and ``shift`` (size[0], d).
        """
        super().randomize(None)
        dims = len(size)
        if dims == 2 and self.slice_shift:
            raise ValueError("slice_shift needs a 3-D image")
        matrix = np.eye(dims)
        if self._enabled():
            matrix = np.array(rotation_matrix(self._uniform(self.rotate_range, 1 if dims == 2 else 3)))
        if self._enabled():
            matrix = matrix / (1 + self._uniform(self.scale_range, dims))  # columns: scaling is applied first
        parts = {"matrix": matrix}
        if self.elastic_magnitude[1]:
            lattice = control_lattice_shape(size, ensure_tuple_rep(self.elastic_spacing, dims))
            magnitude = self.R.uniform(*self.elastic_magnitude) if self._enabled() else 0.0
            parts["control"] = self.R.uniform(-1, 1, (dims, *lattice)) * magnitude
        if self.slice_shift:
            parts["shift"] = np.zeros((size[0], dims))
            if self._enabled(self.slice_shift_prob):
                parts["shift"][:, 1:] = self.R.uniform(-self.slice_shift, self.slice_shift, (size[0], dims - 1))
        self.parameters = {name: torch.tensor(part, dtype=torch.float32) for name, part in parts.items()}
        return self.parameters

    def on_batch(self, batch: dict[Hashable, Any], states: Sequence[np.random.RandomState]) -> dict[Hashable, Any]:
        modes = dict(self.key_iterator(batch, self.mode))
        tensors = {key: batch[key].float() if mode == "bilinear" else batch[key] for key, mode in modes.items()}
        drawn = self.drawn(states, batch[self.keys[0]].shape[2:])
        if drawn:
            parts = {name: torch.stack([parameters[name] for parameters in drawn.values()]) for name in self.parameters}
            some = {key: chosen(tensor, list(drawn)) for key, tensor in tensors.items()}
            warped = self._warped(some, modes, parts)
            tensors = {
                key: changed(tensor, dict(zip(drawn, warped[key], strict=True))) for key, tensor in tensors.items()
            }
        return {**batch, **tensors}

    def _warped(
        self, tensors: dict[Hashable, torch.Tensor], modes: dict[Hashable, str], parts: dict[str, torch.Tensor]
    ) -> dict[Hashable, torch.Tensor]:
        first = tensors[self.keys[0]]
        size = first.shape[2:]
        parts = dict(zip(parts, to_device(list(parts.values()), first.device), strict=True))
        coordinates = warp_coordinates(size, spacing=ensure_tuple_rep(self.elastic_spacing, len(size)), **parts)
        # Interpolated together: each further tensor costs a quarter of the first.
        linear = {
            key: surface_amount(tensors[key]) if mode == "surface" else tensors[key].float()
            for key, mode in modes.items()
            if mode != "nearest"
        }
        if linear:
            channels = [tensor.shape[1] for tensor in linear.values()]
            read = sample_linear(torch.cat(list(linear.values()), 1), coordinates)
            linear = dict(zip(linear, read.split(channels, 1), strict=True))
        read_otherwise = {
            key: cut_surface(linear[key], tensors[key], coordinates, self.label_padding)
            if mode == "surface"
            else sample_nearest(tensors[key], coordinates, self.label_padding)
            for key, mode in modes.items()
            if mode != "bilinear"
        }
        return linear | read_otherwise

    def _enabled(self, prob: float = 1.0) -> bool:
        """Whether to apply a part of the warp; always draws a number, so that results do not depend on other parts."""
        return self._do_transform and self.R.rand() < prob

    def _uniform(self, width: Range, n: int) -> np.ndarray:
        """Draw n values, the i-th from [-width_i, width_i]."""
        return self.R.uniform(-1, 1, n) * (width if np.isscalar(width) else np.asarray(width[:n]))

"""Rotation, scaling, elastic deformation and slice jitter of an item as one resampling."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.engines import default_prepare_batch
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor, ensure_tuple_rep

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

WARP = "warp"
"""The key under which the parameters of a deferred warp travel with their item."""

Range = float | Sequence[float]

_MODES = ("bilinear", "nearest", "surface")


class RandWarpd(RandomizableTransform, MapTransform):
    """Deform image and label together: every part of the deformation is composed first, the voxels are read once.

    The source of output voxel ``o`` is ``c + R @ S @ (o - c + elastic(o) + jitter(o))`` about the centre ``c``, with
    rotation ``R``, scaling ``S``, a cubic B-spline through random control points and one in-plane shift a slice.
    :meth:`randomize` draws the parameters, a few hundred numbers; reading the voxels is a pure function of them
    (:mod:`custom.ops.warp`) that runs on one item in a worker or on a whole batch on the GPU.

    Args:
        keys: keys of channel-first tensors (C, D, H, W) or (C, H, W), all of one spatial shape.
        mode: one for each key. ``"bilinear"``: linear in every axis, gives float32. ``"nearest"``: keeps the dtype and
            makes up no value. ``"surface"``: for labels 0, 1 (a thin surface) and larger ones (ignored), keeps the
            dtype; nearest voxels punch holes into a sheet two voxels thick, this hardly does
            (:func:`custom.ops.warp.sample_surface`).
        prob: probability that an item is warped at all.
        rotate_range: radians about each array axis, drawn from [-r, r]; in 2-D the first is the one.
        scale_range: the zoom along each axis is drawn from [1 - s, 1 + s]; above 1 things grow.
        elastic_spacing: voxels between control points along each axis.
        elastic_magnitude: an item draws its magnitude m from this range (one number: from 0 to it), in voxels, and each
            control point moves by up to m along each axis.
        slice_shift: each slice along the first axis is shifted in its plane by up to this many voxels; 3-D only.
        rotate_prob: probability of a rotation in an item that is warped. ``scale_prob``, ``elastic_prob`` and
            ``slice_shift_prob`` likewise.
        padding_mode: what is read outside the source: ``"border"``, ``"zeros"`` or ``"reflection"``.
        label_padding: what nearest and surface keys read there instead, for instance the ignore label.
        deferred: draw only, and leave the parameters in the item; :meth:`apply` then warps the collated batch.

    A number given for a range stands for every axis. The output is of the input's spatial shape, as plain tensors: the
    transform is for training, where the affine is of no more use.

    Raises:
        ValueError: the elastic magnitude could fold the image, which tears sheets and joins others (the bound is that
            of Choi and Lee, 2000); a scale range of 1 or more; slice shifts in 2-D; an unknown mode; a surface key
            and a ``label_padding`` of 1, as if the surface went on outside.
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
        rotate_prob: float = 1.0,
        scale_prob: float = 1.0,
        elastic_prob: float = 1.0,
        slice_shift_prob: float = 1.0,
        padding_mode: str = "border",
        label_padding: int | None = None,
        deferred: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        low, high = (0.0, elastic_magnitude) if np.isscalar(elastic_magnitude) else elastic_magnitude
        bound = largest_elastic_magnitude(float(np.min(elastic_spacing)), spatial_dims=3)
        if not 0 <= low <= high <= bound:
            raise ValueError(
                f"elastic_magnitude {elastic_magnitude}: expected 0 to {bound:.1f} voxels for control points"
                f" {elastic_spacing} voxels apart; beyond it the deformation can fold"
            )
        if np.max(scale_range) >= 1:
            raise ValueError(f"scale_range {scale_range}: expected less than 1")
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if not set(self.mode) <= set(_MODES):
            raise ValueError(f"mode {self.mode}: expected one of {', '.join(_MODES)} for each key")
        if "surface" in self.mode and label_padding == 1:
            raise ValueError("label_padding 1: expected another value for a surface key, such as the ignore label")
        self.rotate_range, self.scale_range, self.slice_shift = rotate_range, scale_range, slice_shift
        self.elastic_spacing, self.elastic_magnitude = elastic_spacing, (float(low), float(high))
        self.rotate_prob, self.scale_prob = rotate_prob, scale_prob
        self.elastic_prob, self.slice_shift_prob = elastic_prob, slice_shift_prob
        self.padding_mode, self.label_padding = padding_mode, label_padding
        self.deferred = deferred
        self.parameters: dict[str, torch.Tensor] = {}

    def randomize(self, size: Sequence[int]) -> None:
        """Draw ``parameters`` for one item of spatial shape ``size``; the identity's where it is not to be warped.

        They are float32 tensors of shapes that depend on ``size`` alone, so that those of a batch can be collated:
        ``matrix`` (d, d), ``control`` (d, *lattice) and ``shift`` (size[0], d).
        """
        super().randomize(None)
        dims = len(size)
        if dims == 2 and self.slice_shift:
            raise ValueError("slice_shift needs a 3-D image")
        matrix = np.eye(dims)
        if self._drawn(self.rotate_prob):
            matrix = np.array(rotation_matrix(self._uniform(self.rotate_range, 1 if dims == 2 else 3)))
        if self._drawn(self.scale_prob):
            matrix = matrix / (1 + self._uniform(self.scale_range, dims))  # columns: the scaling comes first
        parts = {"matrix": matrix}
        if self.elastic_magnitude[1]:
            lattice = control_lattice_shape(size, ensure_tuple_rep(self.elastic_spacing, dims))
            magnitude = self.R.uniform(*self.elastic_magnitude) if self._drawn(self.elastic_prob) else 0.0
            parts["control"] = self.R.uniform(-1, 1, (dims, *lattice)) * magnitude
        if self.slice_shift:
            parts["shift"] = np.zeros((size[0], dims))
            if self._drawn(self.slice_shift_prob):
                parts["shift"][:, 1:] = self.R.uniform(-self.slice_shift, self.slice_shift, (size[0], dims - 1))
        self.parameters = {name: torch.tensor(part, dtype=torch.float32) for name, part in parts.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Warp one item, or leave the parameters in it."""
        data = dict(data)
        self.randomize(data[self.first_key(data)].shape[1:])
        if self.deferred:
            data[WARP] = self.parameters
        elif self._do_transform:
            batch = {key: data[key][None] for key in self.key_iterator(data)}
            batch = self.apply({**batch, WARP: {name: part[None] for name, part in self.parameters.items()}})
            data.update((key, tensor[0]) for key, tensor in batch.items())
        else:  # the same types as if it were warped
            for key, mode in self.key_iterator(data, self.mode):
                tensor = convert_to_tensor(data[key], track_meta=False)
                data[key] = tensor.float() if mode == "bilinear" else tensor
        return data

    def apply(self, batch: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Warp a batch, on the device it is on, by the parameters that travelled with it.

        Args:
            batch: (B, C, D, H, W) or (B, C, H, W) tensors at ``keys``, and at ``"warp"`` the collated parameters, which
                are taken out.
        """
        batch = dict(batch)
        modes = dict(self.key_iterator(batch, self.mode))
        batch.update({key: convert_to_tensor(batch[key], track_meta=False) for key in modes})
        coordinates = self._coordinates(batch.pop(WARP), batch[next(iter(modes))])
        # Read together: each tensor beyond the first costs a quarter of the first.
        linear = {key: _linear_part(batch[key], mode) for key, mode in modes.items() if mode != "nearest"}
        if linear:
            channels = [tensor.shape[1] for tensor in linear.values()]
            read = sample_linear(torch.cat(list(linear.values()), 1), coordinates, self.padding_mode)
            linear = dict(zip(linear, read.split(channels, 1), strict=True))
        padding = (self.padding_mode, self.label_padding)
        for key, mode in modes.items():
            if mode == "nearest":
                batch[key] = sample_nearest(batch[key], coordinates, *padding)
            elif mode == "surface":
                batch[key] = cut_surface(linear[key], batch[key], coordinates, *padding)
            else:
                batch[key] = linear[key]
        return batch

    def _coordinates(self, parts: Mapping[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Where the voxels of a batch of the shape and on the device of ``like`` are read."""
        size = like.shape[2:]
        parts = {name: part.to(like.device, non_blocking=True) for name, part in parts.items()}
        return warp_coordinates(size, spacing=ensure_tuple_rep(self.elastic_spacing, len(size)), **parts)

    def _drawn(self, prob: float) -> bool:
        return self._do_transform and self.R.rand() < prob

    def _uniform(self, width: Range, n: int) -> np.ndarray:
        """n values, the i-th from [-width_i, width_i]."""
        return self.R.uniform(-1, 1, n) * (width if np.isscalar(width) else np.asarray(width[:n]))


def _linear_part(tensor: torch.Tensor, mode: str) -> torch.Tensor:
    return surface_amount(tensor) if mode == "surface" else tensor.float()


class PrepareWarpedBatch:
    """``prepare_batch`` of a trainer that applies a deferred :class:`RandWarpd` on the training device.

    Args:
        warp: the transform that drew the parameters, as a reference: ``"@train#warp"``.
    """

    def __init__(self, *, warp: RandWarpd) -> None:
        self.warp = warp

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Like ``monai.engines.default_prepare_batch``, on the warped batch."""
        batch = dict(batchdata)
        for key in self.warp.key_iterator(batch):
            batch[key] = batch[key].to(device, non_blocking=non_blocking)
        return default_prepare_batch(self.warp.apply(batch), device, non_blocking, **kwargs)

"""Inference as nnU-Net does it: cropped to what is not zero, resampled, in windows, and back."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel import orientations
from torch import nn

from ..errors import DataError
from ..ops.boxes import NONZERO
from ..ops.contiguous import contiguous
from ..ops.nnunet_resampling import new_shape, resample, separate_axis
from .common import ACTIVATIONS, predict_finite, with_metadata_of
from .sliding_window import SlidingWindow

ORIENTATIONS = ("file", "RAS")
TIFF = (".tif", ".tiff")


class NnunetInferer(SlidingWindow):
    """Predicts volumes with a network trained by nnU-Net, with nnU-Net's result.

    As nnU-Net's own predictor, it reads the volume's axes in a certain order, transposes them, crops the volume to the
    voxels that are not 0, resamples it to the spacing of the training, blends the logits of windows (``like_nnunet``),
    resamples them back, and activates them. Voxels outside of the crop are background.
    :class:`custom.transforms.NormalizeNnunetd` must normalise the volume before.

    nnU-Net adds logits up in float16, here it is float32. Without resampling, the logits of only ``roi_size[0]`` planes
    are in memory.

    Example: ``{"_target_": "custom.inferers.NnunetInferer", "spacing": [1, 1, 1], "roi_size": [128, 128, 128],
    "overlap": 0.5, "activation": "softmax", "tta": ["depth", "vertical", "horizontal"]}``

    Args:
        spacing: of the training, for the transposed axes, (D, H, W) in mm; or (H, W) of a 2-D network, which predicts
            slices along the first transposed axis.
        transpose: ``transpose_forward`` of the plans.
        orientation: order in which nnU-Net read the axes: ``"file"``, those of the file, last one first as ITK does,
            in a TIFF as they are; ``"RAS"``, reoriented, then last one first. The volume may have been reoriented since
            it was read, if its metadata have the ``original_affine``.
        separate_z: ``force_separate_z`` of the plans, see :func:`custom.ops.nnunet_resampling.separate_axis`.

    Shape:
        Input ``(1, 1, D, H, W)``, a ``MetaTensor`` whose affine has the spacing; output ``(1, C_out, D, H, W)`` of the
        same orientation. The network is called with ``(n, 1, *roi_size)``, a 2-D network without the first size.

    Raises:
        DataError: an unknown orientation, an activation that is missing, or a prediction that is not finite.
    """

    like_nnunet = True

    def __init__(
        self,
        *,
        spacing: Sequence[float],
        activation: str,
        transpose: Sequence[int] = (0, 1, 2),
        orientation: str = "file",
        order: int = 3,
        logits_order: int = 1,
        separate_z: bool | None = None,
        **windows: Any,
    ) -> None:
        super().__init__(activation=activation, **windows)
        if orientation not in ORIENTATIONS:
            raise DataError.of("orientation", repr(orientation), " or ".join(ORIENTATIONS))
        if activation not in ("softmax", "sigmoid"):
            raise DataError.of("activation", repr(activation), "softmax or sigmoid")
        self.spacing = tuple(float(length) for length in spacing)
        self.transpose, self.orientation = tuple(transpose), orientation
        self.order, self.logits_order, self.separate_z = order, logits_order, separate_z

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs
    ) -> torch.Tensor | MetaTensor:
        if inputs.ndim != 5:
            raise ValueError(f"expected (B, C, D, H, W), found {tuple(inputs.shape)}")
        if not isinstance(inputs, MetaTensor):
            raise ValueError("nnU-Net's resampling needs a MetaTensor: a plain tensor does not know its spacing")
        network = _Slices(network) if len(self.spacing) == 2 else network
        places = [self._place(inputs[index]) for index in range(len(inputs))]
        volumes = inputs.as_tensor().cpu().numpy()

        def predict(inferer: NnunetInferer) -> torch.Tensor:
            pairs = zip(volumes, places, strict=True)
            return torch.stack([inferer._case(volume, place, network, args, kwargs) for volume, place in pairs])

        return with_metadata_of(inputs, predict_finite(self, predict).to(inputs.device))

    def _place(self, volume: MetaTensor) -> "_Place":
        affine = np.asarray(volume.affine, float)
        axes, flips = [0, 1, 2], [False] * 3
        if self.orientation == "RAS" or not str(volume.meta.get("filename_or_obj", "")).lower().endswith(TIFF):
            original = np.asarray(volume.meta.get("original_affine", affine), float)
            wanted = orientations.io_orientation(original)
            if self.orientation == "RAS":
                wanted = orientations.axcodes2ornt(("R", "A", "S"))
            change = orientations.ornt_transform(orientations.io_orientation(affine), wanted)
            flips = [sign < 0 for sign in change[:, 1]]
            axes = np.argsort(change[:, 0]).tolist()[::-1]
        axes = [axes[axis] for axis in self.transpose]
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        box = np.asarray(volume.meta.get(NONZERO, [(0, length) for length in volume.shape[1:]]))
        spans = [
            (size - stop, size - start) if flip else (start, stop)
            for (start, stop), flip, size in zip(box.tolist(), flips, volume.shape[1:], strict=True)
        ]
        inside = tuple(slice(*spans[axis]) for axis in axes)
        return _Place(tuple(axes), tuple(flips), tuple(float(lengths[axis]) for axis in axes), inside)

    def _case(self, volume: np.ndarray, place: "_Place", network: Callable, args, kwargs) -> torch.Tensor:
        cropped = contiguous(place.of(volume), np.float32)
        target = place.spacing[: 3 - len(self.spacing)] + self.spacing
        shape = new_shape(cropped.shape[1:], place.spacing, target)
        if shape == cropped.shape[1:]:
            planes = self._planes_of(torch.from_numpy(cropped), network, args, kwargs)
            return self._collected(planes, volume.shape[1:], place)
        axis = separate_axis(place.spacing, target, self.separate_z)
        resampled = np.stack([resample(channel, shape, axis=axis, order=self.order) for channel in cropped])
        del cropped
        plain = copy.copy(self)
        plain.activation, plain.channels = ACTIVATIONS[None], None
        logits = plain._volume(torch.from_numpy(resampled), network, args, kwargs)
        axis, size = separate_axis(target, place.spacing, self.separate_z), [s.stop - s.start for s in place.inside]
        back = [resample(channel, size, axis=axis, order=self.logits_order) for channel in logits.numpy()]
        rows = (
            self._activated(torch.from_numpy(np.stack([channel[z : z + 1] for channel in back])[None]))[0]
            for z in range(size[0])
        )
        return self._collected(rows, volume.shape[1:], place)

    def _collected(self, planes, shape: Sequence[int], place: "_Place") -> torch.Tensor:
        """Put predicted planes in their place in the volume, whose other voxels are background."""
        output = inside = None
        at = 0
        for group in planes:
            if output is None:
                channels = range(len(group)) if self.channels is None else self.channels
                output = np.zeros((len(group), *shape), np.float32)
                if self.activation is ACTIVATIONS["softmax"] and 0 in channels:
                    output[list(channels).index(0)] = 1
                inside = place.of(output)
            inside[:, at : at + group.shape[1]] = group.cpu().numpy()
            at += group.shape[1]
        return torch.from_numpy(output)


@dataclass(frozen=True)
class _Place:
    """How a volume's axes are reordered, their spacing after it, and the box that is predicted."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    spacing: tuple[float, ...]
    inside: tuple[slice, ...]

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return a view of the box in ``(C, D, H, W)``, reordered."""
        flipped = array[(slice(None), *(slice(None, None, -1 if flip else 1) for flip in self.flips))]
        return flipped.transpose(0, *(axis + 1 for axis in self.axes))[(slice(None), *self.inside)]


class _Slices(nn.Module):
    """A 2-D network for windows that are one slice thick."""

    def __init__(self, network: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.network(windows[:, :, 0], *args, **kwargs)[:, :, None]

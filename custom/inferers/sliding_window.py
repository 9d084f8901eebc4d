"""A volume larger than the network's window, predicted window by window."""

import logging
from collections.abc import Callable, Sequence
from itertools import chain, combinations, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn
from tqdm import tqdm

from ..ops.windows import gaussian_weights, padding_to, window_starts
from .common import ACTIVATIONS, autocast_to, check_amp, check_option, device_of, with_metadata_of

AXES = (-3, -2, -1)

logger = logging.getLogger(__name__)


class View(NamedTuple):
    """One way of looking at a window: axes that are reversed, quarter turns of the plane of the last two axes."""

    flips: tuple[int, ...] = ()
    turns: int = 0

    def of(self, windows: torch.Tensor) -> torch.Tensor:
        """The windows ``(B, C, D, H, W)`` as this view shows them."""
        return torch.rot90(windows.flip(self.flips), self.turns, (-2, -1))

    def back(self, predictions: torch.Tensor) -> torch.Tensor:
        """The inverse, for what the network said of the view."""
        return torch.rot90(predictions, -self.turns, (-2, -1)).flip(self.flips)


class SlidingWindow(Inferer):
    """Predict overlapping windows and blend them with Gaussian weights; memory beside input and output is one slab.

    The windows, their weights and the result are those of :class:`monai.inferers.SlidingWindowInferer` in its Gaussian
    mode. Windows are taken in the order of the first axis, so that a plane that no further window reaches can be
    written to the output: what is kept meanwhile is ``roi_size[0]`` planes, not a second volume and a count map.

    Args:
        roi_size: (D, H, W) of the window, in voxels. Axes shorter than it are padded by repeating the border.
        stride: (D, H, W) distance between windows.
        batch_size: windows per call of the network; halved when the GPU's memory runs out.
        activation: ``"softmax"`` or ``"sigmoid"``: probabilities are blended and returned. ``None``: logits are.
        channels: which channels to return; ``None``: all. A two-class softmax is known from its second channel alone.
        tta: views whose predictions are averaged: ``"none"``; ``"flips"``, all 8 combinations of reversed axes;
            ``"turns"``, 4 quarter turns in the plane of rows and columns; or a list of axes (0, 1, 2), all combinations
            of which are reversed.
        empty_value: windows in which no voxel is above it lie outside the scanned object: the network does not see them
            and they are predicted as 0. ``None``: every window is predicted.
        amp: see :class:`custom.inferers.SliceVolumeInferer`. On a CPU the network is also brought to channels-last
            order when it runs in bfloat16, which is where that pays.
        device: where the network runs; by default where its parameters are.
        output_device: where the result is collected; by default where the input is.
        progress: show a progress bar.

    Shape:
        Input ``(B, C, D, H, W)``; the network is called with ``(n, C, *roi_size)`` float32 and returns one tensor of
        the same size; output ``(B, C_out, D, H, W)`` float32, a ``MetaTensor`` where the input is one.

    Raises:
        ValueError: an unknown option, or ``tta`` turns with a window whose rows and columns differ in number.
    """

    def __init__(
        self,
        *,
        roi_size: Sequence[int],
        stride: Sequence[int],
        batch_size: int = 1,
        activation: str | None = None,
        channels: Sequence[int] | None = None,
        tta: str | Sequence[int] = "none",
        empty_value: float | None = None,
        amp: str | None = "auto",
        device: str | torch.device | None = None,
        output_device: str | torch.device | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_option("activation", [activation], ACTIVATIONS)
        check_amp(amp)
        if batch_size < 1 or min(*roi_size, *stride) < 1:
            raise ValueError(f"batch_size, roi_size, stride: expected 1 or more, found {batch_size, roi_size, stride}")
        if activation is None and empty_value is not None:
            raise ValueError("empty_value needs an activation: windows left out are predicted with probability 0")
        self.roi_size = tuple(roi_size)
        self.stride = tuple(stride)
        self.batch_size = batch_size
        self.activation = ACTIVATIONS[activation]
        self.channels = None if channels is None else list(channels)
        self.views = views(tta, self.roi_size)
        self.empty_value = empty_value
        self.amp = amp
        self.device = device
        self.output_device = output_device
        self.progress = progress

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs
    ) -> torch.Tensor | MetaTensor:
        if inputs.ndim != 5:
            raise ValueError(f"expected (B, C, D, H, W), found {tuple(inputs.shape)}")
        # Metadata is put aside: every operation on a MetaTensor costs, and the network needs none of it.
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        device = torch.device(self.device) if self.device is not None else device_of(network, inputs)
        with autocast_to(self.amp, device) as dtype:
            if dtype is torch.bfloat16 and device.type == "cpu" and isinstance(network, nn.Module):
                network.to(memory_format=torch.channels_last_3d)
            predicted = [self._volume(volume, network, device, args, kwargs) for volume in volumes]
        return with_metadata_of(inputs, torch.stack(predicted) if len(predicted) > 1 else predicted[0][None])

    def _volume(self, volume: torch.Tensor, network: Callable, device: torch.device, args, kwargs) -> torch.Tensor:
        """Predict ``(C, D, H, W)``."""
        shape = volume.shape[1:]
        padding = padding_to(shape, self.roi_size)
        if any(map(any, padding)):
            volume = F.pad(volume[None].float(), list(chain(*reversed(padding))), mode="replicate")[0]
        starts = [window_starts(*axis) for axis in zip(volume.shape[1:], self.roi_size, self.stride, strict=True)]
        weights = gaussian_weights(self.roi_size).to(device)
        output = slab = None
        bar = tqdm(total=len(starts[0]) * len(starts[1]) * len(starts[2]), desc="windows", disable=not self.progress)
        for z, following in zip(starts[0], [*starts[0][1:], volume.shape[1]], strict=True):
            places = [(z, y, x) for y, x in product(*starts[1:])]
            for group, predictions in self._predictions(volume, places, network, device, args, kwargs):
                if slab is None:
                    slab = _Slab(len(predictions[0]), self.roi_size[0], volume.shape[2:], weights)
                    output_device = volume.device if self.output_device is None else self.output_device
                    output = torch.zeros((len(predictions[0]), *shape), device=output_device)
                for place, prediction in zip(group, predictions, strict=True):
                    slab.add(place[1:], prediction)
                bar.update(len(group))
            _write(output, slab.take(following - z), z, padding)
        bar.close()
        return output

    def _predictions(self, volume, places, network, device, args, kwargs):
        """Yield groups of window positions and their predictions ``(n, C_out, *roi_size)``, float32 on ``device``.

        The next group is cut out while a GPU still works on the last one.
        """
        groups = [places[i : i + self.batch_size] for i in range(0, len(places), self.batch_size)]
        windows = self._cut(volume, groups[0], device)
        for index, group in enumerate(groups):
            predictions = self._forward(windows, network, args, kwargs)
            if index + 1 < len(groups):
                windows = self._cut(volume, groups[index + 1], device)
            yield group, predictions

    def _cut(self, volume: torch.Tensor, places: Sequence[tuple[int, ...]], device: torch.device) -> torch.Tensor:
        boxes = [tuple(slice(a, a + n) for a, n in zip(place, self.roi_size, strict=True)) for place in places]
        windows = torch.stack([volume[(slice(None), *box)] for box in boxes])
        if device.type == "cuda" and windows.device.type == "cpu":
            windows = windows.pin_memory()
        return windows.to(device, torch.float32, non_blocking=True)

    def _forward(self, windows: torch.Tensor, network: Callable, args, kwargs) -> torch.Tensor:
        """Predict windows with all views; those that are empty are 0, and smaller groups follow a full memory."""
        seen = range(len(windows))
        if self.empty_value is not None:
            seen = torch.nonzero(windows.amax(dim=(1, 2, 3, 4)) > self.empty_value)[:, 0].tolist()
            if not seen and self.channels is None:
                seen = [0]  # someone has to say how many channels there are
        if len(seen) == len(windows):
            return self._views(windows, network, args, kwargs)
        if not seen:
            return windows.new_zeros((len(windows), len(self.channels), *self.roi_size))
        found = self._views(windows[seen], network, args, kwargs)
        predictions = found.new_zeros((len(windows), *found.shape[1:]))
        predictions[seen] = found
        return predictions

    def _views(self, windows: torch.Tensor, network: Callable, args, kwargs) -> torch.Tensor:
        try:
            total = None
            for view in self.views:
                values = self.activation(network(view.of(windows), *args, **kwargs).float())
                values = view.back(values if self.channels is None else values[:, self.channels])
                total = values if total is None else total.add_(values)
            return total.div_(len(self.views)) if len(self.views) > 1 else total
        except torch.OutOfMemoryError:
            if len(windows) == 1:
                raise
            torch.cuda.empty_cache()
            half = len(windows) // 2
            self.batch_size = max(1, min(self.batch_size, half))
            logger.warning("out of GPU memory with %d windows at a time: trying %d", len(windows), half)
            return torch.cat([self._views(part, network, args, kwargs) for part in (windows[:half], windows[half:])])


class _Slab:
    """The planes that further windows may still reach: weighted sums of predictions, and of weights."""

    def __init__(self, channels: int, depth: int, size: Sequence[int], weights: torch.Tensor) -> None:
        self.weights = weights
        self.total = weights.new_zeros((channels, depth, *size))
        self.weight = weights.new_zeros((depth, *size))

    def add(self, corner: Sequence[int], prediction: torch.Tensor) -> None:
        """Add one window ``(C, *roi_size)`` whose rows and columns start at ``corner``."""
        box = tuple(slice(a, a + n) for a, n in zip(corner, self.weights.shape[1:], strict=True))
        self.total[(slice(None), slice(None), *box)].addcmul_(prediction, self.weights)
        self.weight[(slice(None), *box)] += self.weights

    def take(self, planes: int) -> torch.Tensor:
        """The blended predictions ``(C, planes, H, W)`` of the first planes, which leave the slab."""
        done = self.total[:, :planes] / self.weight[:planes]
        for sums in (self.total, self.weight[None]):
            kept = sums[:, planes:].clone()
            sums[:, : kept.shape[1]] = kept
            sums[:, kept.shape[1] :] = 0
        return done


def views(tta: str | Sequence[int], roi_size: Sequence[int]) -> list[View]:
    """The views that a name or a list of spatial axes stands for; the plain one comes first."""
    if tta == "turns":
        if roi_size[1] != roi_size[2]:
            raise ValueError(f"quarter turns need as many rows as columns, found a window of {tuple(roi_size)}")
        return [View(turns=turns) for turns in range(4)]
    named = {"none": [], "flips": [0, 1, 2]}
    if isinstance(tta, str) and tta not in named:
        raise ValueError(f"tta must be none, flips, turns or a list of axes, found {tta!r}")
    axes = [AXES[axis] for axis in (named[tta] if isinstance(tta, str) else tta)]
    return [View(flips) for n in range(len(axes) + 1) for flips in combinations(axes, n)]


def _write(output: torch.Tensor, planes: torch.Tensor, start: int, padding: Sequence[tuple[int, int]]) -> None:
    """Put blended planes, the first of which is number ``start`` of the padded volume, into the output."""
    (before, _), (top, _), (left, _) = padding
    first = max(before - start, 0)
    at = start + first - before
    count = min(planes.shape[1] - first, output.shape[1] - at)
    if count > 0:
        height, width = output.shape[2:]
        output[:, at : at + count] = planes[:, first : first + count, top : top + height, left : left + width]
